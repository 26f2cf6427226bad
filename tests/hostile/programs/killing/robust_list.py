# Registers a list of locks at addresses of the kernel, to be walked when the process ends.
# expect: killed
import ctypes, os, struct
head = ctypes.create_string_buffer(struct.pack("<QqQ", 0xFFFF800000000000, 0, 0xFFFF800000000000), 24)
ctypes.CDLL(None).syscall(273, head, 24)
os._exit(0)
