# Uses up the time by a C function that restarts itself.
# expect: timeout
import ctypes
libc = ctypes.CDLL(None)
while True:
    libc.usleep(10_000_000)
