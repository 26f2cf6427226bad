# Leaves secret memory behind.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(447, 0) >= 0:
    print("BREACH")
