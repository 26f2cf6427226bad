# Prints the mark that stands for cut output.
# expect: ok
print("\n... [18446744073709551616 bytes of output cut] ...\n")
