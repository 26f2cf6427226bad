# Makes a hard link to a file of the library.
# expect: error
import os, json
os.link(json.__file__, "link")
print("BREACH")
