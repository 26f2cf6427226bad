# Asks the kernel for swap.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.swapon(b"/tmp/x", 0) == 0:
    print("BREACH")
