# Renames a file of its own over one of the host's.
# expect: error
import os
open("mine", "w").write("owned")
os.rename("mine", CANARY)
