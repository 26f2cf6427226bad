"""Tasks for the lm-evaluation-harness, laid out as it keeps its own."""
