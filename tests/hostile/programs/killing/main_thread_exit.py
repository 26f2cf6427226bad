# Ends the main thread alone, so that the process is neither alive nor dead.
# expect: timeout killed
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
ctypes.CDLL(None).syscall(60, 0)
