# Answers for this block and plants an answer for the next.
# expect: ok killed
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
if frame:
    answer = struct.pack("<16sBdI", frame.f_locals["nonce"], 0, 0.0, 1) + b"1"
    planted = struct.pack("<16sBdI", frame.f_locals["nonce"], 0, 0.0, 6) + b"BREACH"
    for d in sockets():
        os.write(d, answer + planted)
