# Holds up whoever wants to write to a file of the library.
# expect: ok
import fcntl, json
handle = open(json.__file__)
for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK):
    try:
        fcntl.fcntl(handle, fcntl.F_SETLEASE, kind)
        print("BREACH")
    except OSError:
        pass
