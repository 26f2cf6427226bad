# Waits for a lock that it holds itself, with the time-out's signal swallowed each time.
# expect: timeout
import threading
lock = threading.Lock()
lock.acquire()
while True:
    try:
        lock.acquire()
    except BaseException:
        pass
