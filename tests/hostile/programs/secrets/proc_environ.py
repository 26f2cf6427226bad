# Reads the environment of every process through /proc.
# expect: ok
import glob
for path in glob.glob("/proc/*/environ"):
    try:
        if b"secret" in open(path, "rb").read():
            print("BREACH", path)
    except OSError:
        pass
