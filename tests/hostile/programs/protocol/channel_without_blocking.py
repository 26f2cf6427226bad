# Makes the channel fail with EAGAIN, so that the harness finds no next request.
# expect: ok
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
