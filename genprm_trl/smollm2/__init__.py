"""A verifier from a real pretrained model: data from GSM8K and generated expressions, training, real solutions."""
