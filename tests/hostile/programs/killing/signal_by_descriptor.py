# Has a descriptor send a deadly signal to the host, the zygote and everyone else once something can be read.
# expect: ok
import fcntl, os, signal, struct
read, write = os.pipe()
for owner in (HOST_PID, os.getppid() or 1, -1):
    for command, argument in ((8, owner), (15, struct.pack("ii", 1, owner)), (10, int(signal.SIGKILL))):
        try:
            fcntl.fcntl(read, command, argument)
        except OSError:
            pass
    fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.write(write, b"x")
