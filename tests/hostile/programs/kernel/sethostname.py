# Asks the kernel for another host name.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.sethostname(b"owned", 5) == 0:
    print("BREACH")
