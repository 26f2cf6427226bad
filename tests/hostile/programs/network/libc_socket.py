# Calls socket() in the C library directly.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.socket(2, 1, 0) >= 0:
    print("BREACH")
