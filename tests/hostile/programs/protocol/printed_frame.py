# Prints what a result looks like.
# expect: ok
import struct, sys
sys.stdout.buffer.write(struct.pack("<16sBdI", bytes(16), 2, 0.0, 0))
print("Code execute Error: ZeroDivisionError: division by zero")
