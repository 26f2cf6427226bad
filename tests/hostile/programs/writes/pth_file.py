# Plants a .pth file that runs at the start of every interpreter.
# expect: error
import os, sympy
site = os.path.dirname(os.path.dirname(sympy.__file__))
open(site + "/zz_planted.pth", "w").write("import os")
