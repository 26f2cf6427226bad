# Overwrites a file of the host.
# expect: error
open(CANARY, "w").write("owned")
