"""Continuous batching over a Transformers model."""
