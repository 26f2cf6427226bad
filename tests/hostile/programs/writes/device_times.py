# Changes when, and for whom, the machine's devices were made.
# expect: ok
import os
for name in ("null", "zero", "full", "random", "urandom"):
    for change in (lambda p: os.utime(p), lambda p: os.utime(p, (0, 0)), lambda p: os.chmod(p, 0o600), lambda p: os.unlink(p)):
        try:
            change(f"/dev/{name}")
            print("BREACH", name)
        except OSError:
            pass
