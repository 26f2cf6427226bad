# Closes every descriptor.
# expect: killed
import os
os.closerange(0, 1024)
