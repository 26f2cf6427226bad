# Runs code in the garbage collector.
# expect: ok error timeout
import gc
gc.callbacks.append(lambda *a: 1 / 0)
gc.set_threshold(1)
