# Lifts the limit on descriptors.
# expect: error
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))
print("BREACH")
