# Leaves keys behind.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(248, b"user", b"name", b"secret", 6, -4) >= 0:
    print("BREACH")
