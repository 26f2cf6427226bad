"""Tests whether a model keeps packed documents apart.

Packing puts several conversations into one sequence and tells them apart by their position ids alone. Whether
attention heeds that is up to the model and its attention implementation: transformers builds a block-diagonal mask for
`eager`, `sdpa` and `flex_attention` and sequence bounds for FlashAttention, but an implementation that is registered
without a mask function, or a model with its own masks, can let documents see one another without any error.
"""

from __future__ import annotations

from typing import Any

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

_DOCUMENT = 16  # tokens


@torch.no_grad()
def leakage(model: torch.nn.Module, vocab_size: int, device: torch.device | str = "cpu") -> float:
    """How much a packed document sees of the one before it.

    Two documents are packed; the first one's tokens are changed, and the change in the second one's logits is held
    against what it is when the two are a single document. The shapes are the same throughout, so that rounding is.

    Args:
        model: A causal language model, possibly wrapped, in any mode (it is left in it).
        vocab_size: Tokens are drawn from [0, vocab_size).
        device: Device of the model's inputs.

    Returns:
        0 for a model that keeps documents apart, about 1 for one that does not tell them apart at all.
    """
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)

    def logits(first: list[int], lengths: list[int]) -> torch.Tensor:
        batch: dict[str, Any] = collator([{"input_ids": first + second, "seq_lengths": lengths}])
        del batch["labels"]
        batch = {key: value.to(device) if torch.is_tensor(value) else value for key, value in batch.items()}
        return model(**batch, use_cache=False).logits[0, _DOCUMENT:].float()

    # Fixed tokens, not random ones: training must not depend on whether this was run.
    first, other, second = ([(i * step + 1) % vocab_size for i in range(_DOCUMENT)] for step in (7, 11, 13))
    was_training = model.training
    model.eval()
    try:
        packed, joined = (
            (logits(first, lengths) - logits(other, lengths)).norm().item()
            for lengths in ([_DOCUMENT, _DOCUMENT], [2 * _DOCUMENT])
        )
    finally:
        model.train(was_training)
    return packed / joined if joined else 0.0
