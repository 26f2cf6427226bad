# Takes memory and time by a huge power.
# expect: memory timeout
x = 7 ** (1 << 40)
