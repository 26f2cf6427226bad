# Leaves links to the host for whoever tidies up.
# expect: ok
import os
os.mkdir("d")
os.symlink(os.path.dirname(CANARY), "d/link")
os.symlink("/", "root")
os.chmod("d", 0o000)
