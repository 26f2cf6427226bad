# Writes through a symbolic link.
# expect: error
import os
os.symlink(CANARY, "link")
open("link", "w").write("owned")
