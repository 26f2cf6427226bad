# Asks a Unix socket for the machine's interfaces and addresses.
# expect: error
import fcntl, socket
one, _ = socket.socketpair()
print("BREACH", fcntl.ioctl(one.fileno(), 0x8912, bytes(40)))
