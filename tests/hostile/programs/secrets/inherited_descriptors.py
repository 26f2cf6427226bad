# Looks for files of the host among the open descriptors.
# expect: ok
import os, stat
for descriptor in range(3, 1024):
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode) and os.fstat(descriptor).st_nlink:
            print("BREACH", descriptor)
    except OSError:
        pass
