"""The one place that calls `model.generate`: for a model that is whole in this process."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache

# generate's argument for a cache, which transformers has renamed.
CACHE_ARGUMENT = (
    "cache"
    if "cache" in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    else "past_key_values"
)


def generate_whole(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    max_new_tokens: int,
    cache: Cache | None = None,
    **kwargs: Any,
) -> None:
    """Runs the most likely tokens of a left-padded batch; what it does is seen by criteria, processors and the cache.

    Args:
        model: The model.
        input_ids: Token ids, shape (rows, columns), on any device.
        attention_mask: 1 for each of them that counts, the same shape.
        max_new_tokens: Tokens to generate, at least 1.
        cache: Keys and values of the first columns; filled with those of the rest.
        **kwargs: Passed to `generate`: logits processors, stopping criteria.
    """
    model.generate(
        input_ids.to(model.device),
        attention_mask=attention_mask.to(model.device),
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            # Only fills rows that are done, whose tokens nobody reads; 0 is a token of every model.
            pad_token_id=0,
            disable_compile=True,
        ),
        # Batches of this process have nothing to do with those of others. Beside a training with ZeRO-3 the default
        # waits for them at every token, for ever if they have fewer batches.
        synced_gpus=False,
        **({} if cache is None else {CACHE_ARGUMENT: cache}),
        **kwargs,
    )
