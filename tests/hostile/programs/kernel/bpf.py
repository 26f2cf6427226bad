# Asks the kernel for a BPF program.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(321, 0, ctypes.create_string_buffer(128), 128) >= 0:
    print("BREACH")
