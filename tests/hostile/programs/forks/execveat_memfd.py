# Runs a program from memory.
# expect: ok
import ctypes
libc = ctypes.CDLL(None)
if libc.memfd_create(b"x", 0) >= 0:
    print("BREACH")
