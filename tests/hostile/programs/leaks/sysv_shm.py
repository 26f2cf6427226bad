# Leaves System V shared memory behind.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.shmget(0x51, 4096, 0o1666) >= 0:
    print("BREACH")
