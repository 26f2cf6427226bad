"""A policy solves problems, with or without a verifier: sampling, search, refinement."""
