# Reads the host's requests away.
# expect: timeout ok killed
import os, stat
def sockets():
    for d in range(1024):
        try:
            if stat.S_ISSOCK(os.fstat(d).st_mode):
                yield d
        except OSError:
            pass

for d in sockets():
    os.set_blocking(d, False)
    try:
        print(len(os.read(d, 100)))
    except BlockingIOError:
        pass
