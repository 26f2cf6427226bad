# Leaves zombies.
# expect: ok
import os
for _ in range(20):
    if os.fork() == 0:
        os._exit(0)
