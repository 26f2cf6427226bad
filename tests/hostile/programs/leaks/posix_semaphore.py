# Leaves a POSIX semaphore behind.
# expect: error
import multiprocessing
multiprocessing.Semaphore()
