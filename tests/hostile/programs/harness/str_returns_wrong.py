# Raises an exception whose text is no text.
# expect: error
class E(Exception):
    def __str__(self): return 1
raise E
