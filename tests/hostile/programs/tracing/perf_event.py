# Watches the machine through perf events.
# expect: ok
import ctypes
libc = ctypes.CDLL(None)
attributes = ctypes.create_string_buffer(128)
attributes[4] = 128
if libc.syscall(298, attributes, 0, -1, -1, 0) >= 0:
    print("BREACH")
