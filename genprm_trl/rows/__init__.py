"""One row, checked field by field, and JSONL files that survive a kill."""
