# Uses up the time by a loop that ignores the alarm.
# expect: timeout
import signal
signal.signal(signal.SIGALRM, signal.SIG_IGN)
while True:
    pass
