# Asks the kernel for all namespaces.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x7E020000) == 0:
    print("BREACH")
