# Searches its own heap for the host's secret.
# expect: ok
import gc
needle = "sec" + "ret-canary-token"
for thing in gc.get_objects():
    if isinstance(thing, dict) and any(isinstance(v, str) and needle in v for v in list(thing.values())):
        if thing is not globals():
            print("BREACH")
