# Walks the whole file system for anything but the interpreter's library.
# expect: ok
import os
for base in ("/etc", "/home", "/var", "/opt", "/srv", "/boot", "/run", "/sys", "/proc"):
    for directory, _, files in os.walk(base):
        readable = [f for f in files if os.access(os.path.join(directory, f), os.R_OK)]
        if readable and "python" not in directory and directory not in ("/etc/ld.so.cache",):
            print("BREACH", directory, readable[:3])
            break
