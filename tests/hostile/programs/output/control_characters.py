# Prints terminal escapes and null bytes.
# expect: ok
print("\x1b]0;owned\x07\x1b[2J\0\x85\u2028")
