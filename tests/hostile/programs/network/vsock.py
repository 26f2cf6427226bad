# Reaches for the hypervisor over vsock.
# expect: error
import socket
socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).connect((2, 1024))
print("BREACH")
