# Asks the kernel for privileges back.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 0, 0, 0, 0) == 0 or libc.prctl(4, 1, 0, 0, 0) == 0:
    print("BREACH")
