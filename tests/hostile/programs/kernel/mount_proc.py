# Asks the kernel for a new /proc.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"proc", b"/tmp", b"proc", 0, None) == 0:
    print("BREACH")
