# Puts a trace function that raises on the harness's own frames.
# expect: ok error killed timeout
import sys
def trace(frame, event, argument):
    raise SystemExit(0)
frame = sys._getframe()
sys.settrace(lambda *_: None)
while frame:
    frame.f_trace, frame.f_trace_opcodes = trace, True
    frame = frame.f_back
