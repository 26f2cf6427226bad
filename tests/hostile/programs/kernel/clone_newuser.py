# Asks the kernel for a user namespace by clone.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0) > 0:
    print("BREACH")
