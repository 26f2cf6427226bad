# Makes the harness report another status.
# expect: ok error killed
import gc
for thing in gc.get_objects():
    if type(thing).__name__ == "Worker":
        type(thing)._execute = lambda self, code: ("ok", "")
1 / 0
