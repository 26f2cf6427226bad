# Takes its limit in each of many children.
# expect: ok error memory timeout killed
import os
pids = []
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        x = bytearray(100 << 20)
        os._exit(0)
    pids.append(pid)
for pid in pids:
    os.waitpid(pid, 0)
