"""The lm-evaluation-harness: our tasks and our model in it, and its results in ours.

Without lm-eval installed this package can be imported, and `tasks_path` works; everything else says which extra to
install.
"""
