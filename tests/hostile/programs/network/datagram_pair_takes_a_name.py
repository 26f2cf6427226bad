# Frees a datagram socket from its peer and has the kernel name it, for others in the network namespace to write to.
# expect: error
import socket
one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
one.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
other.close()
for _ in range(2):
    try:
        one.send(b"x")
    except OSError:
        pass
print("BREACH", one.getsockname())
