# Takes memory by a format width.
# expect: memory
x = "%" + "0" + "9" * 9 + "d"
y = [x % 1 for _ in range(9)]
