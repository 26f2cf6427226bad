# Takes memory by one huge allocation.
# expect: memory
x = bytearray(1 << 40)
