# Leaves a stopped child.
# expect: ok
import os, signal, time
pid = os.fork()
if pid == 0:
    time.sleep(600)
os.kill(pid, signal.SIGSTOP)
