# Poisons a byte code cache.
# expect: error
import json, importlib.util
open(importlib.util.cache_from_source(json.__file__), "wb").write(b"owned")
