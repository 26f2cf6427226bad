# Uses up the time by a loop that stops the timer.
# expect: timeout
import signal
signal.setitimer(signal.ITIMER_REAL, 0)
while True:
    pass
