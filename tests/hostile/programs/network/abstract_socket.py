# Connects to an abstract Unix socket of the host.
# expect: error
import socket
socket.socket(socket.AF_UNIX).connect(ABSTRACT_SOCKET)
print("BREACH")
