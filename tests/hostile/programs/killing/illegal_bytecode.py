# Runs broken byte code.
# expect: killed ok error timeout memory
def f(): pass
f.__code__ = f.__code__.replace(co_code=bytes([100, 255] * 20), co_stacksize=1)
f()
