# Empties the modules that the harness works with.
# expect: ok error killed timeout
import sys
for name in ("os", "signal", "time", "io", "builtins", "guest.worker", "guest.wire", "contextlib", "struct"):
    if name in sys.modules:
        sys.modules[name].__dict__.clear()
