# Raises an exception with a huge name.
# expect: error
raise type("E" * 1_000_000, (Exception,), {})("x")
