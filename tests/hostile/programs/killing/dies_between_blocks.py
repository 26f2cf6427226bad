# Ends the process after the block has been answered, so that the next one finds it dead.
# expect: ok
import os, sys, threading
main = threading.main_thread().ident
def die():
    while sys._current_frames()[main].f_code.co_name != "_receive":  # the guest waits for the next block there
        pass
    os._exit(1)
threading.Thread(target=die, daemon=True).start()
