# Raises GeneratorExit.
# expect: error
raise GeneratorExit
