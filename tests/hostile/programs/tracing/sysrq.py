# Reboots the machine through /proc.
# expect: error
open("/proc/sysrq-trigger", "w").write("b")
