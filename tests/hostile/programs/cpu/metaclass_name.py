# Hangs while its exception's name is read.
# expect: timeout error
class M(type):
    @property
    def __name__(cls):
        while True:
            pass
class E(Exception, metaclass=M):
    pass
raise E
