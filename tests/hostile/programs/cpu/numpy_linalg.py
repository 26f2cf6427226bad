# Uses up the time by linear algebra inside C code.
# expect: timeout
import numpy
while True:
    numpy.linalg.svd(numpy.ones((700, 700)))
