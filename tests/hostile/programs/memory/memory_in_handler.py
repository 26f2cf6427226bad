# Takes all memory and then raises from the handler.
# expect: memory
x = []
try:
    while True:
        x.append(bytearray(1 << 12))
except MemoryError:
    x.append(bytearray(1 << 34))
