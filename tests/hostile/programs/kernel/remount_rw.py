# Asks the kernel for a writable root.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(None, b"/", None, 32, None) == 0:
    print("BREACH")
