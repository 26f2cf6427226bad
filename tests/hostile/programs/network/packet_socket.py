# Opens a packet socket.
# expect: error
import socket
socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
print("BREACH")
