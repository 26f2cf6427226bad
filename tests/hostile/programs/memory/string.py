# Takes memory by a string that doubles.
# expect: memory
x = "a"
while True:
    x += x
