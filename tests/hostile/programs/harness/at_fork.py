# Registers code for forks.
# expect: ok
import os
os.register_at_fork(before=lambda: 1 / 0, after_in_child=lambda: 1 / 0)
