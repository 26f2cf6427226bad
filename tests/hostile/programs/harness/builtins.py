# Replaces the built-in functions that the harness might use.
# expect: ok error killed
import builtins
for name in ("len", "min", "isinstance", "str", "type", "memoryview", "bytes", "OSError", "BaseException"):
    setattr(builtins, name, None)
