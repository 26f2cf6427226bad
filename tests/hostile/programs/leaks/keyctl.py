# Leaves a session keyring behind.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(250, 1, b"ring") >= 0:
    print("BREACH")
