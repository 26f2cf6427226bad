# Asks the kernel for another personality.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.personality(0x0040000) != -1:
    print("BREACH")
