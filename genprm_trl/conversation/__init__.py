"""A protocol's text as token ids, through the model's chat template."""
