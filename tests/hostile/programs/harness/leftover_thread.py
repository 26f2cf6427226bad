# Leaves a thread that fights with the harness.
# expect: ok error killed timeout
import sys, threading
def fight():
    while True:
        sys.stdout = None
threading.Thread(target=fight, daemon=True).start()
