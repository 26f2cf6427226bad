# Unix sockets of the raw kind are datagram sockets by another name.
# expect: error
import socket
socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)
print("BREACH")
