# Gives the interpreter's lock away and never takes it back.
# expect: killed timeout
import ctypes
ctypes.PyDLL(None).PyEval_SaveThread()
