# Plants a module that the host would import.
# expect: error
import sympy
path = sympy.__file__.replace("__init__.py", "planted.py")
open(path, "w").write("owned")
