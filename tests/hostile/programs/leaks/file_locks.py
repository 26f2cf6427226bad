# Leaves locks on a file of the library.
# expect: ok
import fcntl, json
handle = open(json.__file__)
fcntl.flock(handle, fcntl.LOCK_EX)
