# Parks memory in the temporary directory.
# expect: error
import os
while True:
    d = os.open("f%d" % len(os.listdir(".")), os.O_CREAT | os.O_RDWR)
    os.write(d, bytes(1 << 22))
    os.close(d)
