# Makes the harness's frame go on at another line.
# expect: ok error killed timeout
import sys
frame = sys._getframe().f_back
def trace(frame, event, argument):
    if event == "line":
        frame.f_lineno = frame.f_code.co_firstlineno + 1
    return trace
sys.settrace(trace)
while frame:
    frame.f_trace = trace
    frame = frame.f_back
