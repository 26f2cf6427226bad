# Kills itself.
# expect: ok killed
import os
os.kill(os.getpid(), 9)
