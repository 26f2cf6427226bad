# Raises an exception whose name is half a surrogate pair.
# expect: error
raise type("\ud800", (Exception,), {})("\udfff")
