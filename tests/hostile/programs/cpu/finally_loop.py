# Uses up the time by a finally clause.
# expect: timeout
try:
    while True:
        pass
finally:
    while True:
        pass
