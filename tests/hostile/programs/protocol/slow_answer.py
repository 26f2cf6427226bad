# Announces a small result, and sends it one byte at a time for ever.
# expect: timeout
import os, stat
def sockets():
    for d in range(1024):
        try:
            if stat.S_ISSOCK(os.fstat(d).st_mode):
                yield d
        except OSError:
            pass

import signal, struct, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
frame = sys._getframe()
while frame and "nonce" not in frame.f_locals:
    frame = frame.f_back
d = max(sockets())
os.write(d, struct.pack("<16sBdI", frame.f_locals["nonce"], 0, 0.0, 10_000))
while True:
    os.write(d, b"x")
    time.sleep(0.05)
