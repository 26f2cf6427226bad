# Reads /etc/hostname.
# expect: error
print("BREACH", open("/etc/hostname").read())
