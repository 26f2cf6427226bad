"""The parts of the verifier: one chain, the chains of one solution, and when its prediction is known."""
