# Installs a segment of its own.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
entry = ctypes.create_string_buffer(16)
if libc.syscall(154, 1, entry, 16) >= 0:
    print("BREACH")
