# Gives the kernel a program to compile and run, as a filter of a socket.
# expect: ok
import ctypes, socket, struct
one, _ = socket.socketpair()
code = ctypes.create_string_buffer(struct.pack("<HBBI", 6, 0, 0, 0xFFFF))
program = struct.pack("<HxxxxxxQ", 1, ctypes.addressof(code))
for option in (26, 51):  # SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF
    try:
        one.setsockopt(socket.SOL_SOCKET, option, program)
        print("BREACH", option)
    except OSError:
        pass
