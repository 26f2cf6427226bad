# Writes to descriptor 1 without end.
# expect: error timeout
import os
while True:
    os.write(1, bytes(1 << 20))
