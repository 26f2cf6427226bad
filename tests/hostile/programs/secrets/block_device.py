# Reads the disk underneath the file system.
# expect: ok
import glob, os
for path in [*glob.glob("/dev/vd*"), *glob.glob("/dev/sd*"), *glob.glob("/dev/nvme*"), "/dev/mem", "/dev/kmsg"]:
    try:
        os.open(path, os.O_RDONLY)
        print("BREACH", path)
    except OSError:
        pass
