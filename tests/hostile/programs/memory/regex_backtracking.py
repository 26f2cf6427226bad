# Takes memory by what a regular expression notes to come back to, inside C code.
# expect: memory
import re
re.match("(?:(a)|b)*c", "ab" * (1 << 22))
