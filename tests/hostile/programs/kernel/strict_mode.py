# Switches itself to the kernel's strict mode, in which the harness could not go on.
# expect: ok error
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(22, 1, 0, 0, 0) == 0:
    print("BREACH")
