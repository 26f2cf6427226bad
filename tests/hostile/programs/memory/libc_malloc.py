# Takes memory by malloc in the C library.
# expect: ok
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
if libc.malloc(ctypes.c_size_t(1 << 36)):
    print("BREACH")
