# Unpickles an exploit.
# expect: ok
import os, pickle
class P:
    def __reduce__(self): return (os.system, ("echo BREACH",))
if pickle.loads(pickle.dumps(P())) == 0:
    print("BREACH")
