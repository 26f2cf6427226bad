# Closes descriptor 1 under Python.
# expect: ok error
import os
os.close(1)
print("x")
