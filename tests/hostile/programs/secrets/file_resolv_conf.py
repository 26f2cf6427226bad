# Reads /etc/resolv.conf.
# expect: error
print("BREACH", open("/etc/resolv.conf").read())
