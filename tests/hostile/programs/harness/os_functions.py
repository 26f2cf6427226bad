# Replaces the functions of os.
# expect: killed timeout ok error
import os
os.write = os.read = os.dup2 = os.getpid = lambda *a, **k: 0
