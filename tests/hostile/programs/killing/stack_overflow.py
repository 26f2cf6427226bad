# Overflows the C stack.
# expect: killed error memory timeout
import sys
sys.setrecursionlimit(1 << 30)
x = []
for _ in range(10_000_000):
    x = [x]
repr(x)
