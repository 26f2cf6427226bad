# Fills the disk with many files.
# expect: error
i = 0
while True:
    open(f"f{i}", "wb").write(bytes(1 << 20))
    i += 1
