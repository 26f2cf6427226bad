# Has every signal write a byte into the channel.
# expect: killed timeout
import os, stat
def sockets():
    for d in range(1024):
        try:
            if stat.S_ISSOCK(os.fstat(d).st_mode):
                yield d
        except OSError:
            pass

import signal
for d in sockets():
    os.set_blocking(d, False)
    signal.set_wakeup_fd(d, warn_on_full_buffer=False)
while True:
    pass
