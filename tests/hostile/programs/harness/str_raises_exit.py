# Raises an exception whose text ends the process.
# expect: error
class E(Exception):
    def __str__(self): raise SystemExit
raise E
