# Reads the source of the host's own package.
# expect: error
import genprm_trl
print("BREACH", genprm_trl.__file__)
