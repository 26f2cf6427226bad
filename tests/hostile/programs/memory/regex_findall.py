# Takes memory by the matches of a regular expression, every tail of a long text at once.
# expect: memory
import re
x = re.findall("(?s)(?=(.*))", "a" * (1 << 22))
