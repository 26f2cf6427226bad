# Queues a signal for the host.
# expect: ok
import ctypes
libc = ctypes.CDLL(None)
info = ctypes.create_string_buffer(128)
if libc.syscall(129, HOST_PID, 9, info) == 0:
    print("BREACH")
