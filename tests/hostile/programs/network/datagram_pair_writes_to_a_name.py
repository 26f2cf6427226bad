# Writes to the host's listeners from a datagram socket that was never connected by the program.
# expect: error
import socket
one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
for name in (ABSTRACT_SOCKET, UNIX_SOCKET):
    try:
        one.sendto(b"x", name)
        print("BREACH", name)
    except ConnectionRefusedError:
        print("BREACH", name)  # it exists
    except OSError:
        pass
