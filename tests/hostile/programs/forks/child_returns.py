# Lets a forked child come to the end of the block as well.
# expect: ok=parent
import os
if os.fork():
    os.wait()
    print("parent")
