# Runs a shell.
# expect: ok
import os
if os.system("echo BREACH") == 0:
    print("BREACH")
