# Asks the kernel for another root.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(155, b"/tmp", b"/tmp") == 0:
    print("BREACH")
