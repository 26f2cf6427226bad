"""Step-level search: a policy writes a solution step by step, and a verifier says which beginnings are worth more."""
