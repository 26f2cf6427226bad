# Uses a process pool, whose semaphores need shared memory.
# expect: error
import multiprocessing
print(multiprocessing.Pool(4).map(abs, range(4)))
