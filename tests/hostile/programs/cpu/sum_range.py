# Uses up the time by a sum inside C code.
# expect: timeout
sum(range(1 << 60))
