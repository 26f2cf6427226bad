# Changes the standard library.
# expect: error
import json
open(json.__file__, "a").write("# owned")
