# Writes into the root directory.
# expect: error
open("/planted", "w").write("x")
