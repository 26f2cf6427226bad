# Connects to a Unix socket of the host.
# expect: error
import socket
socket.socket(socket.AF_UNIX).connect(UNIX_SOCKET)
print("BREACH")
