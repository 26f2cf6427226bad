# Asks to be traced.
# expect: ok
import ctypes
if ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0:
    print("BREACH")
