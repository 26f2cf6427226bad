# Ends the process about when the block is answered: before (on a machine under load), or while the next one runs.
# expect: ok killed
import os, threading, time
threading.Thread(target=lambda: (time.sleep(0.005), os._exit(1)), daemon=True).start()
