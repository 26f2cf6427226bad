# Leaves the hidden root through /proc.
# expect: error
import os
print("BREACH", os.listdir("/proc/1/root/etc"))
