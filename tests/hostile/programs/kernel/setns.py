# Asks the kernel for another process's namespaces.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.setns(0, 0) == 0:
    print("BREACH")
