# Deletes a file of the host.
# expect: error
import os
os.unlink(CANARY)
