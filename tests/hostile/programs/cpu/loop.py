# Uses up the time by a loop.
# expect: timeout
while True:
    pass
