# Asks the kernel for a user namespace.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x10000000) == 0:
    print("BREACH")
