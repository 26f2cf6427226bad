# Directories nested deeper than any path can say, each closed to its owner, with a link to the canary in each.
# expect: ok error timeout
import os
for depth in range(5000):
    os.mkdir("d")
    try:
        os.symlink(CANARY, "l")
        os.link("d", "h")
    except OSError:
        pass
    os.chdir("d")
    os.chmod("..", 0)
