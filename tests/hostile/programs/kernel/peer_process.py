# Asks the channel who is at its other end: credentials, and a descriptor of the host's process.
# expect: ok
import socket
import os, stat
def sockets():
    for d in range(1024):
        try:
            if stat.S_ISSOCK(os.fstat(d).st_mode):
                yield d
        except OSError:
            pass

for d in sockets():
    s = socket.socket(fileno=os.dup(d))
    for option, size in ((17, 12), (77, 4), (31, 256)):  # SO_PEERCRED, SO_PEERPIDFD, SO_PEERSEC
        try:
            print("BREACH", s.getsockopt(socket.SOL_SOCKET, option, size))
        except OSError:
            pass
