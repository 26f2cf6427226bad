# Reads the C library's own copy of the environment.
# expect: ok
import ctypes
environ = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
i = 0
while environ and environ[i]:
    if b"secret" in environ[i]:
        print("BREACH", environ[i])
    i += 1
