# Fills the buffers of sockets, which no limit on address space counts, with data and with descriptors.
# expect: ok error
import os, socket
pairs = []
try:
    while True:
        pairs.append(socket.socketpair())
        for s in pairs[-1]:
            s.setblocking(False)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                s.setsockopt(socket.SOL_SOCKET, option, 1 << 30)
            try:
                while True:
                    socket.send_fds(s, [bytes(1 << 16)], [0] * 100)
            except OSError:
                pass
except OSError:
    pass
