# Takes memory by recursion without a limit.
# expect: memory timeout error
import sys
sys.setrecursionlimit(1 << 30)
def f(x): return f([x] * 1000)
f(0)
