# Finds the nonce of its own block and answers for the harness.
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
    body = "an answer about itself alone".encode()
    for d in sockets():
        os.write(d, struct.pack("<16sBdI", frame.f_locals["nonce"], 0, 0.0, len(body)) + body)
os._exit(0)
