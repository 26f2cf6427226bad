# Stacks a rule set of its own on the session's, with everything allowed.
# expect: ok
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
ruleset = libc.syscall(444, struct.pack("<Q", 1), 8, 0)
if ruleset >= 0 and libc.syscall(446, ruleset, 0) == 0:
    print("BREACH")
