# Starts threads without end.
# expect: error
import threading, time
while True:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
