# Ends the interpreter under the harness's feet.
# expect: killed timeout
import ctypes
ctypes.pythonapi.Py_FinalizeEx()
