# Asks the kernel for page faults.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(323, 1) >= 0:
    print("BREACH")
