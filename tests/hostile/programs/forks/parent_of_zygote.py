# Makes a process that is the child of its parent's parent, to outlive the session as a child of the zygote.
# expect: ok error
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
def escape():
    if libc.syscall(56, 0x8000 | 17, 0, 0, 0, 0) == 0:  # CLONE_PARENT
        while True:
            time.sleep(1)
escape()
if os.fork() == 0:
    escape()
    os._exit(0)
