# Ends the process from a profile function.
# expect: killed ok timeout error
import os, sys
def f(*a): raise SystemExit
sys.setprofile(f)
