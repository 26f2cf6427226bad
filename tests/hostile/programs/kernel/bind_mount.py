# Asks the kernel for a bind mount.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"/", b"/tmp", None, 4096, None) == 0:
    print("BREACH")
