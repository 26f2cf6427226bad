# Asks for a pair of sockets of another family.
# expect: ok
import ctypes
pair = (ctypes.c_int * 2)()
if ctypes.CDLL(None).socketpair(2, 1, 0, pair) == 0:
    print("BREACH")
