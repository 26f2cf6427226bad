# Opens the host's files through /proc.
# expect: error
import os
print("BREACH", os.listdir(f"/proc/{HOST_PID}/fd"))
