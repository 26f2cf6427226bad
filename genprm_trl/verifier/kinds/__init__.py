"""Discriminative verifiers, one kind of checkpoint a file. `verifier.opening` has the table of all kinds."""
