# Registers code for the end of the process.
# expect: ok
import atexit
def last():
    while True:
        pass
atexit.register(last)
