# Leaves a timer whose handler never comes back, for the time after the block.
# expect: ok
import signal
def spin(*_):
    while True:
        pass
signal.signal(signal.SIGUSR1, spin)
signal.signal(signal.SIGVTALRM, spin)
signal.signal(signal.SIGPROF, spin)
signal.setitimer(signal.ITIMER_PROF, 0.02)
signal.setitimer(signal.ITIMER_VIRTUAL, 0.02)
