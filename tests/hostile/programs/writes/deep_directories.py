# Nests directories until paths no longer work.
# expect: ok error timeout
import os
for i in range(3000):
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
