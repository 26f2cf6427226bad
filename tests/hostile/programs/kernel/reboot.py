# Asks the kernel for a reboot.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.reboot(0x4321FEDC) == 0:
    print("BREACH")
