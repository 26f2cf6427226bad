# Takes memory by a numpy broadcast.
# expect: memory
import numpy
x = numpy.ones(1 << 17)
y = x[:, None] + x[None, :]
