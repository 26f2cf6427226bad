# Raises an exception with endless context.
# expect: error
error = None
for i in range(10_000):
    new = ValueError(i)
    new.__cause__ = error
    error = new
raise error
