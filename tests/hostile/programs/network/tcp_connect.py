# Connects to a listener of the host over TCP.
# expect: error
import socket
socket.create_connection(("127.0.0.1", PORT), timeout=1).sendall(b"BREACH")
print("BREACH")
