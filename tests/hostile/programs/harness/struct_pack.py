# Replaces struct, time and signal functions.
# expect: ok error killed timeout
import signal, struct, time
time.perf_counter = lambda: -1e9
signal.signal = signal.setitimer = lambda *a: None
