# Leaves a POSIX message queue behind.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(240, b"q", 0o102, 0o666, None) >= 0:
    print("BREACH")
