# Uses up the time by a sympy computation.
# expect: timeout
import sympy
sympy.factorint(2 ** 601 - 1)
