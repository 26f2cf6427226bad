# Asks the kernel for the identity of root.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.setuid(0) == 0 and __import__("os").getuid() == 0:
    print("BREACH")
