# Uses up the inodes.
# expect: error
i = 0
while True:
    open(f"f{i}", "w").close()
    i += 1
