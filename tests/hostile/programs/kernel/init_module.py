# Asks the kernel for a kernel module.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(175, b"x", 1, b"") == 0:
    print("BREACH")
