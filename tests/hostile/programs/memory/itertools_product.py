# Takes memory by itertools.product, which keeps its input.
# expect: memory
import itertools
itertools.product(range(1 << 40))
