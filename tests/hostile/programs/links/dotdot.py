# Climbs out by dots.
# expect: error
print("BREACH", open("/tmp" + "/.." * 20 + CANARY).read())
