# Uses up the time by a regular expression inside C code.
# expect: timeout
import re
re.match(r"(a+)+$", "a" * 60 + "b")
