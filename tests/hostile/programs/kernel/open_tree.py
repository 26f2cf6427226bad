# Asks the kernel for mounts by the new interface.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(428, -100, b"/", 1) >= 0:
    print("BREACH")
