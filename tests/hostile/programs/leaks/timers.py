# Starts timers without end.
# expect: ok
import ctypes
libc = ctypes.CDLL(None)
timer = ctypes.c_void_p()
for _ in range(2000):
    libc.timer_create(0, None, ctypes.byref(timer))
