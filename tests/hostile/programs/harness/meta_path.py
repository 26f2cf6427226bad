# Takes over the import system.
# expect: ok
import sys
class Finder:
    def find_spec(self, *a): raise SystemExit
sys.meta_path.insert(0, Finder())
