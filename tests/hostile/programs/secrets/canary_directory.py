# Lists a directory of the host.
# expect: error
import os
print("BREACH", os.listdir(os.path.dirname(CANARY)))
