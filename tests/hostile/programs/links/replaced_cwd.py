# Removes its own working directory.
# expect: ok error
import os, shutil
shutil.rmtree(os.getcwd(), ignore_errors=True)
os.chdir("/")
