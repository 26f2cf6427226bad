# Uses up the time by a loop that swallows every exception.
# expect: timeout
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
