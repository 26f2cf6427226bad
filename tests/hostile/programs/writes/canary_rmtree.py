# Deletes a directory of the host.
# expect: ok
import os, shutil
shutil.rmtree(os.path.dirname(CANARY), ignore_errors=True)
