# Follows a symbolic link out of its directory.
# expect: error
import os
os.symlink(CANARY, "link")
print("BREACH", open("link").read())
