# Sends a datagram to the host.
# expect: error
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"BREACH", ("127.0.0.1", PORT))
print("BREACH")
