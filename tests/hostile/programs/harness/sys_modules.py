# Empties sys.modules.
# expect: ok error
import sys
sys.modules.clear()
