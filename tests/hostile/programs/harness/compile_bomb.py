# Breaks the compiler with nesting.
# expect: error memory killed
eval("(" * 100_000 + ")" * 100_000)
