# Shuts the channel down one way.
# expect: killed timeout
import os, stat
def sockets():
    for d in range(1024):
        try:
            if stat.S_ISSOCK(os.fstat(d).st_mode):
                yield d
        except OSError:
            pass

import socket
for d in sockets():
    socket.socket(fileno=d).shutdown(socket.SHUT_WR)
