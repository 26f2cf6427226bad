# Makes a hard link to a file of the host.
# expect: error
import os
os.link(CANARY, "link")
print("BREACH")
