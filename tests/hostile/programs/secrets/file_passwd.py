# Reads /etc/passwd.
# expect: error
print("BREACH", open("/etc/passwd").read())
