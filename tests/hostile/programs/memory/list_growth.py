# Takes memory by a list that grows.
# expect: memory
x = []
while True:
    x.append(bytearray(1 << 20))
