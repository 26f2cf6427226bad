# Opens a raw socket.
# expect: error
import socket
socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
print("BREACH")
