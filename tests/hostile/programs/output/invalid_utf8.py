# Prints bytes that are not UTF-8.
# expect: ok
import sys
sys.stdout.buffer.write(bytes(range(256)))
