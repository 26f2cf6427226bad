# Kills the host, whose process id it knows.
# expect: ok error
import os
for sig in (0, 9):
    try:
        os.kill(HOST_PID, sig)
        print("BREACH")
    except OSError:
        pass
