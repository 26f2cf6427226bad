# Asks the kernel for another filter.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(317, 1, 0, None) == 0:
    print("BREACH")
