# Kills every process it can.
# expect: ok killed
import os
try:
    os.kill(-1, 9)
except OSError:
    pass
