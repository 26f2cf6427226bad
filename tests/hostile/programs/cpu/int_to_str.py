# Uses up the time by a conversion inside C code.
# expect: timeout
import sys
sys.set_int_max_str_digits(0)
x = str(7 ** 3_000_000)
y = str(7 ** 9_000_000)
