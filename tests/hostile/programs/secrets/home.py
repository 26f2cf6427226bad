# Looks for credentials in home directories.
# expect: ok
import glob, os
found = [f for pattern in ("/root/.*", "/home/*/.*", os.path.expanduser("~/.*")) for f in glob.glob(pattern + "/*")]
for path in found:
    if not path.startswith("/root/.pyenv") and os.path.isfile(path):
        print("BREACH", path)
