# Queues signals without end.
# expect: ok error
import signal, os
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
for _ in range(10_000):
    os.kill(os.getpid(), signal.SIGRTMIN)
