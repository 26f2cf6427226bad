# Raises an exception with a huge text.
# expect: error
raise ValueError("x" * 10_000_000)
