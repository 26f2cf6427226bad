# Puts another file in the place of the channel.
# expect: timeout killed
import os, stat
def sockets():
    for d in range(1024):
        try:
            if stat.S_ISSOCK(os.fstat(d).st_mode):
                yield d
        except OSError:
            pass

for d in list(sockets()):
    os.dup2(os.open("/dev/null", os.O_RDWR), d)
