# Locks memory.
# expect: ok
import ctypes
libc = ctypes.CDLL(None)
buffer = ctypes.create_string_buffer(1 << 20)
if libc.mlock(buffer, 1 << 20) == 0:
    print("BREACH")
