# Announces a result of four gigabytes.
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
for d in sockets():
    os.write(d, struct.pack("<16sBdI", bytes(16), 0, 0.0, 0xFFFFFFFF))
