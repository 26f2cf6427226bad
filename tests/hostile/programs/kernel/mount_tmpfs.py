# Asks the kernel for a mount.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None) == 0:
    print("BREACH")
