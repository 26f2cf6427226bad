# Finds the harness's object and rewrites it.
# expect: ok error killed timeout
import gc
for thing in gc.get_objects():
    if type(thing).__name__ == "Worker":
        thing._limits["output"] = 1 << 30
        thing._run = lambda code, seconds: ("ok", "forged")
