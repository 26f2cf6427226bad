# Asks the kernel for the mount underneath.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.umount2(b"/tmp", 2) == 0:
    print("BREACH")
