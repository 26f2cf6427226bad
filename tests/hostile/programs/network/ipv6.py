# Connects over IPv6.
# expect: error
import socket
socket.create_connection(("::1", PORT), timeout=1)
print("BREACH")
