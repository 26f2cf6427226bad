# Leaves fanotify marks behind.
# expect: ok
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.fanotify_init(0, 0) >= 0:
    print("BREACH")
