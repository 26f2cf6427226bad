"""One worker over many items: resumed after a kill, spread over processes and machines."""
