"""Training data for a GenPRM: solutions, Monte Carlo estimates, labels, rationales (arXiv 2504.00891, section 3)."""
