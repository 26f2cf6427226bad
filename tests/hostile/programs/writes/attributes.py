# Changes times, modes, owners and extended attributes of files that it may not open.
# expect: ok
import json, os
for path in (CANARY, json.__file__, "/", "/usr/lib", os.path.dirname(os.__file__)):
    for change in (lambda p: os.utime(p, (0, 0)), lambda p: os.chmod(p, 0o777), lambda p: os.chown(p, 1, 1),
                   lambda p: os.setxattr(p, "user.planted", b"x"), lambda p: os.truncate(p, 0)):
        try:
            change(path)
            print("BREACH", path)
        except OSError:
            pass
