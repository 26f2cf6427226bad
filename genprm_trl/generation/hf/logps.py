"""Log-probabilities of completions under a model."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from genprm_trl.generation.hf.regimes import Regimes


def completion_logps(
    model: Any, prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """The log-probability of each token of each completion, given its prompt and what comes before it.

    Rows are padded at the right, so that positions are the same as in a batch of one. Logits are turned into
    log-probabilities in float32, whatever the model computes in, and for the tokens of completions alone.

    Args:
        model: A causal language model.
        prompt_ids: Token ids, at least one each.
        completion_ids: Token ids.

    Returns:
        For each completion a tensor of shape (tokens,), on the model's device, with a gradient where it is enabled.
    """
    regimes = Regimes(model, left_padded=False)
    if not regimes:
        return _logps(model, prompt_ids, completion_ids)
    logps: dict[int, torch.Tensor] = {}
    for places in regimes.groups([len(p) + len(c) for p, c in zip(prompt_ids, completion_ids, strict=True)]):
        regimes.forget()
        part = _logps(model, [prompt_ids[place] for place in places], [completion_ids[place] for place in places])
        logps.update(zip(places, part, strict=True))
    return [logps[place] for place in range(len(prompt_ids))]


def _logps(
    model: Any, prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    device = next(model.parameters()).device
    longest = max(len(p) + len(c) for p, c in zip(prompt_ids, completion_ids, strict=True))
    input_ids = torch.zeros(len(prompt_ids), longest, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, (prompt, completion) in enumerate(zip(prompt_ids, completion_ids, strict=True)):
        input_ids[row, : len(prompt) + len(completion)] = torch.tensor([*prompt, *completion], dtype=torch.long)
        attention_mask[row, : len(prompt) + len(completion)] = 1
    input_ids, attention_mask = input_ids.to(device), attention_mask.to(device)
    # A token is predicted at the place before it; the vocabulary is not projected to before the first such place.
    first = min(map(len, prompt_ids)) - 1
    bound = {"logits_to_keep": longest - first} if _bounds_logits(model) else {}
    logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **bound).logits
    logits = logits[:, first - longest :]
    logps = []
    for row, (prompt, completion) in enumerate(zip(prompt_ids, completion_ids, strict=True)):
        start = len(prompt) - 1 - first
        predicted = logits[row, start : start + len(completion)].float()
        tokens = input_ids[row, len(prompt) : len(prompt) + len(completion)].unsqueeze(1)
        logps.append(predicted.gather(1, tokens).squeeze(1) - predicted.logsumexp(dim=1))
    return logps


def _bounds_logits(model: Any) -> bool:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(base.forward).parameters
