# Prints half of a surrogate pair.
# expect: ok
print("\ud800")
