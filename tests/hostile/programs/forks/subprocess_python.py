# Starts another interpreter.
# expect: error
import subprocess, sys
print(subprocess.run([sys.executable, "-c", "print('BREACH')"], capture_output=True, text=True).stdout)
