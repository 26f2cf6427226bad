# Opens a handle on the host's process.
# expect: error
import os
os.pidfd_open(HOST_PID)
print("BREACH")
