"""Code inside the sandbox. It imports the standard library only, not the host's package."""
