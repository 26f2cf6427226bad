# Opens a listener that others could reach.
# expect: error
import socket
s = socket.socket()
s.bind(("0.0.0.0", 0))
s.listen()
print("BREACH")
