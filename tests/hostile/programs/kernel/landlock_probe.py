# Asks the kernel for its own sandbox layers.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(444, None, 0, 1) >= 0:
    print("BREACH")
