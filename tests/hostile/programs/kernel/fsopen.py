# Asks the kernel for a file system by the new interface.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(430, b"tmpfs", 0) >= 0:
    print("BREACH")
