# Floods the channel.
# expect: killed timeout
import os, stat
def sockets():
    for d in range(1024):
        try:
            if stat.S_ISSOCK(os.fstat(d).st_mode):
                yield d
        except OSError:
            pass

while True:
    for d in sockets():
        os.write(d, bytes(1 << 20))
