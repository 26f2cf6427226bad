"""Files in, records out: sources, row formats, solutions, problems, groups of solutions."""
