# Looks for the files of another session.
# expect: ok
import os
import sys
seen = []
for top in ("/tmp", "/scratch", "/proc", os.getcwd()):
    for root, folders, files in os.walk(top):
        if root == sys.prefix:  # a virtual environment below /tmp: large, and no secret
            folders.clear()
            continue
        for name in files:
            try:
                seen.append(open(os.path.join(root, name)).read(1000))
            except (OSError, UnicodeDecodeError):
                pass
for number in range(200):
    try:
        seen.append(open(os.path.join(os.path.dirname(os.getcwd()), str(number), "kept-by-sibling")).read())
    except OSError:
        pass
print(seen)
