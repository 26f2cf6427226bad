# Uses up the descriptors.
# expect: error
import os
while True:
    os.open("/dev/null", os.O_RDONLY)
