# Ends the process after the block has been answered, so that the next one finds it dead.
# expect: ok
import os, threading, time
threading.Thread(target=lambda: (time.sleep(0.005), os._exit(1)), daemon=True).start()
