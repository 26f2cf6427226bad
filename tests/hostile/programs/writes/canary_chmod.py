# Changes the mode of a file of the host.
# expect: error
import os
os.chmod(CANARY, 0o777)
