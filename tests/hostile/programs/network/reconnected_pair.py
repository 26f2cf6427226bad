# Connects, binds and listens on the sockets of a pair.
# expect: ok
import socket
one, other = socket.socketpair()
for action in (lambda: one.connect(UNIX_SOCKET), lambda: one.connect(ABSTRACT_SOCKET),
               lambda: one.bind("\0planted"), lambda: other.bind("planted"), lambda: other.listen()):
    try:
        action()
        print("BREACH")
    except OSError:
        pass
