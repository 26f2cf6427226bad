"""A world small enough to run end to end on any machine: problems, errors, a reasoner, a tokenizer, tiny models."""
