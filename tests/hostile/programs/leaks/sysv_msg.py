# Leaves System V message queues behind.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.msgget(0x51, 0o1666) >= 0:
    print("BREACH")
