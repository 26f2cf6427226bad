# Leaves a file in /dev/shm.
# expect: error
open("/dev/shm/planted", "w").write("x")
