"""Verifiers other than GenPRM, one kind a file. `verifier.opening` has the table of all kinds."""
