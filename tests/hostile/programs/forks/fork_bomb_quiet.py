# Forks without end and swallows the errors.
# expect: timeout
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
