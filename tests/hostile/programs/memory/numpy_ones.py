# Takes memory by numpy arrays.
# expect: memory timeout
import numpy
x = []
while True:
    x.append(numpy.ones(1 << 22))
