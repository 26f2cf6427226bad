"""What runs on the far side of the sandbox's wall. Imports the standard library alone, not the host's package."""
