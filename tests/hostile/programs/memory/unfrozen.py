# Makes the collector write to every page that the session shares with the zygote.
# expect: ok
import gc
gc.unfreeze()
for _ in range(3):
    gc.collect()
print(gc.isenabled())
