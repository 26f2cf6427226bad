# Uses up the time by nested handlers.
# expect: timeout
def f():
    try:
        while True:
            pass
    except BaseException:
        f()
f()
