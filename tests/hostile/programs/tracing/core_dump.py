# Leaves a core dump.
# expect: killed
import ctypes, resource
try:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
    print("BREACH")
except (ValueError, OSError):
    pass
ctypes.string_at(0)
