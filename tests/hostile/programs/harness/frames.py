# Changes the harness's variables through its frames.
# expect: ok killed error timeout
import ctypes, sys
frame = sys._getframe()
while frame:
    for name in list(frame.f_locals):
        if frame.f_code is not sys._getframe().f_code:
            frame.f_locals[name] = None
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(1))
    frame = frame.f_back
