# Has the kernel signal it about what others do in a directory of the library.
# expect: ok
import fcntl, os
directory = os.open(os.path.dirname(os.__file__), os.O_RDONLY)
try:
    fcntl.fcntl(directory, fcntl.F_NOTIFY, fcntl.DN_ACCESS | fcntl.DN_MULTISHOT)
    print("BREACH")
except OSError:
    pass
