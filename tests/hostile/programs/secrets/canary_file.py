# Reads a file of the host whose path it knows.
# expect: error
print("BREACH", open(CANARY).read())
