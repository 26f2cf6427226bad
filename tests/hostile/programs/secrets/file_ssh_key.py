# Reads /root/.ssh/id_rsa.
# expect: error
print("BREACH", open("/root/.ssh/id_rsa").read())
