# Threads that never give way, so that the time-out's signal is never looked at.
# expect: timeout
import sys, threading
sys.setswitchinterval(1e9)
def spin():
    while True:
        pass
for _ in range(4):
    threading.Thread(target=spin, daemon=True).start()
spin()
