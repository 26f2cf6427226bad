# Forks without end.
# expect: error timeout killed
import os
while True:
    os.fork()
