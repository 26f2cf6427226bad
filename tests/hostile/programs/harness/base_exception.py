# Raises an exception outside the usual tree.
# expect: error
class E(BaseException):
    pass
raise E("x")
