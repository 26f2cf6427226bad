# Writes to standard error without end.
# expect: timeout
import sys
while True:
    print("x" * 1000, file=sys.stderr)
