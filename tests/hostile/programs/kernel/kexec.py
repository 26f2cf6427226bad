# Asks the kernel for another kernel.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(246, 0, 0, None, 0) == 0:
    print("BREACH")
