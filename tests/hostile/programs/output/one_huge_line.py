# Prints one huge line.
# expect: ok
print("x" * 50_000_000)
