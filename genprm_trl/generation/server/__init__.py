"""Generation through servers that speak OpenAI's completions API."""
