# Kills all process groups in turn.
# expect: ok killed
import os
for group in range(2, 5000):
    try:
        os.killpg(group, 9)
        print("BREACH", group)
    except OSError:
        pass
