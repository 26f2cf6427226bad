"""Command-line options as dataclasses, shared by the commands and the evaluation harness."""
