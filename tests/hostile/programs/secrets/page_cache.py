# Learns which parts of a file others have read lately.
# expect: ok
import ctypes, json, mmap
libc = ctypes.CDLL(None, use_errno=True)
handle = open(json.__file__, "rb")
view = mmap.mmap(handle.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
address = ctypes.addressof(ctypes.c_char.from_buffer(view))
if libc.syscall(27, ctypes.c_void_p(address), ctypes.c_size_t(4096), ctypes.create_string_buffer(1)) == 0:
    print("BREACH")
