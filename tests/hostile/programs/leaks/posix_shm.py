# Leaves POSIX shared memory behind.
# expect: error
from multiprocessing import shared_memory
shared_memory.SharedMemory("planted", create=True, size=4096)
print("BREACH")
