# Writes a whole result of its own into the channel.
# expect: killed
import os, stat
def sockets():
    for d in range(1024):
        try:
            if stat.S_ISSOCK(os.fstat(d).st_mode):
                yield d
        except OSError:
            pass

import struct
body = b"BREACH"
for d in sockets():
    os.write(d, struct.pack("<16sBdI", bytes(16), 0, 0.0, len(body)) + body)
