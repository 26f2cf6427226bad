# Writes a file over the limit.
# expect: error
with open("big", "wb") as f:
    while True:
        f.write(bytes(1 << 20))
