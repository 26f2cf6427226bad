# Asks the kernel for a device node.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.mknod(b"/tmp/disk", 0o60666, 0xFD00) == 0:
    print("BREACH")
