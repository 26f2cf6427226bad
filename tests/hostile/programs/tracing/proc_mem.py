# Writes the memory of the host through /proc.
# expect: error
open(f"/proc/{HOST_PID}/mem", "r+b")
print("BREACH")
