# Asks the kernel for a file by its handle.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(304, 0, ctypes.create_string_buffer(64), 0) >= 0:
    print("BREACH")
