# Asks the kernel for another root by chroot.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.chroot(b"/tmp") == 0:
    print("BREACH")
