# Reads /etc/shadow.
# expect: error
print("BREACH", open("/etc/shadow").read())
