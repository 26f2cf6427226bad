# Names another receiver than its peer on pairs that stay allowed.
# expect: ok
import socket
for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    for name in (ABSTRACT_SOCKET, UNIX_SOCKET):
        for send in (lambda: one.sendto(b"x", name), lambda: one.sendmsg([b"x"], [], 0, name)):
            try:
                send()
            except OSError:
                pass
