# Reads the memory of the host.
# expect: ok
import ctypes
libc = ctypes.CDLL(None)
buffer = ctypes.create_string_buffer(64)
iovec = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 64)
if libc.process_vm_readv(HOST_PID, iovec, 1, iovec, 1, 0) > 0:
    print("BREACH")
