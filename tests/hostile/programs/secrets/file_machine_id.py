# Reads /etc/machine-id.
# expect: error
print("BREACH", open("/etc/machine-id").read())
