# Leaves System V semaphores behind.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.semget(0x51, 8, 0o1666) >= 0:
    print("BREACH")
