# Lets a child answer in the place of its parent.
# expect: ok killed error timeout
import os, stat
def sockets():
    for d in range(1024):
        try:
            if stat.S_ISSOCK(os.fstat(d).st_mode):
                yield d
        except OSError:
            pass

import time
found = list(sockets())
if os.fork() == 0:
    for d in found:
        os.write(d, b"x" * 29)
    time.sleep(600)
time.sleep(0.1)
