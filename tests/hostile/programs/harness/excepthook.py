# Replaces the exception hooks.
# expect: error
import sys, threading
sys.excepthook = threading.excepthook = sys.unraisablehook = None
1 / 0
