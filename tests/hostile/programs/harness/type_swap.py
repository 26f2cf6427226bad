# Turns the harness's objects into others by their class.
# expect: ok error killed timeout
import gc, io
for thing in gc.get_objects():
    if type(thing).__module__.startswith("guest"):
        try:
            class Other(type(thing)):
                def __getattribute__(self, name):
                    raise MemoryError("forged")
            thing.__class__ = Other
        except TypeError:
            pass
