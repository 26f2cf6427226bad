# Sleeps in C code without giving up the interpreter's lock.
# expect: timeout
import ctypes
ctypes.PyDLL(None).sleep(600)
