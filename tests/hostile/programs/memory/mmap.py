# Takes memory by anonymous mappings.
# expect: memory
import mmap
x = []
while True:
    m = mmap.mmap(-1, 1 << 26)
    m[::4096] = bytes(1 << 14)
    x.append(m)
