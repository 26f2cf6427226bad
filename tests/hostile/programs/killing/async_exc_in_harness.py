# Raises exceptions in the harness from a thread.
# expect: ok error timeout killed
import ctypes, threading, time
main = threading.main_thread().ident
def shoot():
    for _ in range(2000):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(KeyboardInterrupt))
        time.sleep(0.0001)
threading.Thread(target=shoot, daemon=True).start()
