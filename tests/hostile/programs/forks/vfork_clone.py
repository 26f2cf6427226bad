# Forks by raw system calls.
# expect: ok error timeout killed
import ctypes, time
libc = ctypes.CDLL(None)
for _ in range(1000):
    if libc.fork() == 0:
        time.sleep(60)
