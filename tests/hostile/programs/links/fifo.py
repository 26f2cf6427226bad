# Leaves a named pipe for others to hang on.
# expect: error
import os
os.mkfifo("pipe")
