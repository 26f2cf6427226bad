# Has the kernel run a program at the next core dump.
# expect: error
open("/proc/sys/kernel/core_pattern", "w").write("|/tmp/owned")
print("BREACH")
