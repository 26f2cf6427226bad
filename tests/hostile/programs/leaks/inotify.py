# Leaves inotify watches behind.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.inotify_init() >= 0:
    print("BREACH")
