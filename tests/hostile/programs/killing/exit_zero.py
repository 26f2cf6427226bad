# Ends the process as if all were well.
# expect: killed
import os
os._exit(0)
