# Traces its parent.
# expect: ok
import ctypes
libc = ctypes.CDLL(None)
for pid in (0, 1, HOST_PID):
    if libc.ptrace(16, pid, 0, 0) == 0:
        print("BREACH", pid)
