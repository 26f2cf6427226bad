# Puts an object that raises in the place of sys.stdout.
# expect: ok error
import sys
class Out:
    def write(self, text): raise SystemError
    def flush(self): raise SystemError
sys.stdout = Out()
