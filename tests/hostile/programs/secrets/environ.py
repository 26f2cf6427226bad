# Reads a token from the environment.
# expect: ok
import os
for name, value in os.environ.items():
    if "secret" in value or "TOKEN" in name:
        print("BREACH", name)
