"""Turns a model into an equal one with wider attention heads, because engines need heads of at least 32 numbers."""

from __future__ import annotations

import copy

import torch
from transformers import Qwen2ForCausalLM

# The narrowest head that vLLM's CPU kernels take.
SMALLEST_HEAD = 32


@torch.no_grad()
def widen_heads(model: Qwen2ForCausalLM, head_dim: int = SMALLEST_HEAD) -> Qwen2ForCausalLM:
    """A model that computes the same logits (but for rounding) with heads of `head_dim` numbers.

    The heads of the miniature models are narrower than what inference engines support. Here, hidden state and heads
    are filled up with zeros: rotary positions turn pair i of n as pair f·i of f·n, so a head's pairs are spread over
    the wider head; queries are scaled for the softmax's larger divisor, and norms for a mean over more numbers.

    Args:
        model: A Qwen2 model with tied or separate embeddings. It is not changed.
        head_dim: A multiple of the model's own.

    Raises:
        ValueError: It is no such multiple.
    """
    config = copy.deepcopy(model.config)
    narrow = config.hidden_size // config.num_attention_heads
    factor, rest = divmod(head_dim, narrow)
    if rest or factor < 1:
        raise ValueError(f"{head_dim} is no multiple of the model's head size {narrow}")
    config.hidden_size *= factor
    # A mean over `factor` times as many numbers, of which only the old ones are not zero.
    config.rms_norm_eps /= factor
    wide = Qwen2ForCausalLM(config).to(model.dtype)

    # Places of a narrow head's numbers in a wide one: in each half, the pairs' frequencies are theta^(-i / half).
    half = torch.arange(narrow // 2) * factor
    places = torch.cat([half, half + head_dim // 2])
    hidden = model.config.hidden_size
    source, target = model.state_dict(), {name: torch.zeros_like(t) for name, t in wide.state_dict().items()}
    for name, old in source.items():
        new = target[name]
        if ".self_attn." in name and ".o_proj." not in name:
            rows = old.unflatten(0, (-1, narrow)) * (factor**0.5 if ".q_proj." in name else 1)
            heads = new.unflatten(0, (-1, head_dim))
            if old.dim() == 1:  # a bias
                heads[:, places] = rows
            else:
                heads[:, places, :hidden] = rows
        elif ".o_proj." in name:
            new[:hidden].unflatten(1, (-1, head_dim))[:, :, places] = old.unflatten(1, (-1, narrow))
        elif name.endswith("norm.weight"):
            new[:hidden] = old / factor**0.5
        else:  # embeddings, head and the feed-forward layers
            new[tuple(slice(size) for size in old.shape)] = old
    wide.load_state_dict(target)
    wide.generation_config = copy.deepcopy(model.generation_config)
    return wide.eval()
