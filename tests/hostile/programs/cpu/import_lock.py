# Uses up the time by a deadlock.
# expect: timeout
import threading
lock = threading.Lock()
lock.acquire()
lock.acquire()
