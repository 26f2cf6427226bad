"""Checks that a model keeps packed documents apart.

Packing puts several conversations into one sequence and tells them apart by their position ids alone. Whether
attention heeds that is up to the model and its attention implementation: transformers builds a block-diagonal mask for
`eager`, `sdpa` and `flex_attention` and sequence bounds for FlashAttention, but an implementation that is registered
without a mask function, or a model with its own masks, can let documents see one another without any error.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import is_peft_model
from transformers import PreTrainedModel
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from genprm_trl.errors import ConfigError

_DOCUMENT = 16  # tokens
_ROUNDING = 0.05  # of a mixture of experts, which groups the tokens of all documents


def check_documents_apart(model: torch.nn.Module, inner: Any, device: torch.device | str) -> None:
    """Checks that packed conversations do not see one another.

    Args:
        model: The model as it is trained, whatever wraps it.
        inner: The model itself, possibly with an adapter.
        device: Device of the model's inputs.

    Raises:
        ConfigError: They do. Says whether another attention would help.
    """
    base: PreTrainedModel = inner.get_base_model() if is_peft_model(inner) else inner
    size, attention = base.config.get_text_config().vocab_size, base.config._attn_implementation
    if leakage(model, size, device) <= _ROUNDING:
        return
    kind = type(base).__name__
    remedy = "set packing=False"
    if attention == "sdpa":
        why = f"{kind} does not tell them apart, and is in sdpa attention already"
    elif not base._supports_sdpa:
        why = f"{kind} does not tell them apart, and has no sdpa attention"
    else:
        base.set_attn_implementation("sdpa")
        try:
            is_apart = leakage(model, size, device) <= _ROUNDING
        finally:
            base.set_attn_implementation(attention)
        if is_apart:
            why = f"its attention ({attention}) does not tell them apart"
            remedy = "load the model with attn_implementation='sdpa', or set packing=False"
        else:
            why = f"{kind} does not tell them apart, in {attention} or in sdpa attention"
    raise ConfigError(f"packed conversations would see one another: {why}; {remedy}")


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
