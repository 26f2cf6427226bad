# Makes a sparse file of a petabyte.
# expect: error
import os
os.truncate(os.open("sparse", os.O_CREAT | os.O_RDWR), 1 << 50)
