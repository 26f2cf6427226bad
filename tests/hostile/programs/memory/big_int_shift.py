# Takes memory by a shift.
# expect: memory
x = 1 << (1 << 40)
