# Takes memory by a dictionary of big values.
# expect: memory
x = {}
while True:
    x[len(x)] = "a" * (1 << 20) + str(len(x))
