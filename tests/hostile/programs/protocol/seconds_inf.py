# Answers for its own block with a time that is none: float("inf").
# expect: killed
import os, stat
def sockets():
    for d in range(1024):
        try:
            if stat.S_ISSOCK(os.fstat(d).st_mode):
                yield d
        except OSError:
            pass

import struct, sys
frame = sys._getframe()
while frame and "nonce" not in frame.f_locals:
    frame = frame.f_back
for d in sockets():
    os.write(d, struct.pack("<16sBdI", frame.f_locals["nonce"], 0, float("inf"), 1) + b"1")
