# Changes the value of the number one for everybody in the process.
# expect: ok error killed timeout
import ctypes
ctypes.c_uint32.from_address(id(1) + 24).value = 2
