# Puts a pipe that nobody reads in the place of standard output.
# expect: timeout
import os
read, write = os.pipe()
os.dup2(write, 1)
while True:
    os.write(1, bytes(1 << 16))
