# Uses up the time by a search inside C code.
# expect: timeout
x = b"a" * (1 << 22) + b"b"
while True:
    x.count(b"a" * (1 << 21) + b"c")
