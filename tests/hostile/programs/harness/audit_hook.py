# Adds an audit hook that forbids everything.
# expect: ok error killed timeout
import sys
def hook(*a): raise RuntimeError("no")
sys.addaudithook(hook)
