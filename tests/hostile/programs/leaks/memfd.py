# Leaves anonymous memory files behind.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.memfd_create(b"x", 0) >= 0:
    print("BREACH")
