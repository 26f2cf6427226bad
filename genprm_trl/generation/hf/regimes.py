"""Which rows may share a padded batch, so that each gets what it would get alone.

In most models a row does not depend on the others. There are exceptions in transformers (5.24):

- Rotary frequencies that depend on the longest row of a batch. `longrope` (Phi-3 and Phi-3.5 with 128k, Phi-4-mini)
  has one set of them up to the original context and another beyond it. Dynamic NTK scaling has another set for each
  length beyond the context, and remembers it for the next batch.
- Models that do not look at the attention mask, and so read padding on the left as text: RWKV, xLSTM.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

# These take an attention mask, and pass over it.
_IGNORE_MASK = {"rwkv"}
# `su` is the name of longrope in older checkpoints.
_LONGROPE = ("longrope", "su")


class Regimes:
    """How the rows of a model depend on one another: a length belongs to a regime, and one regime shares a batch.

    Args:
        model: The model, with or without PEFT's wrapper.
        left_padded: Whether shorter rows are padded on the left. What stands on the right of a row changes nothing.
    """

    def __init__(self, model: Any, *, left_padded: bool):
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        config = base.config.get_text_config()
        ignores_mask = config.model_type in _IGNORE_MASK or (
            "attention_mask" not in inspect.signature(base.forward).parameters
        )
        self._name = type(base).__name__
        self._model = base
        self._reads_padding = left_padded and ignores_mask
        self._switches: list[int] = []  # lengths up to which there is one set of frequencies, and beyond another
        self._changes_beyond = math.inf  # beyond it each length has its own
        for rope in _rope_parameters(config):
            kind = str(rope.get("rope_type", rope.get("type")))
            if kind in _LONGROPE:
                original = rope.get("original_max_position_embeddings")
                original = original or getattr(config, "original_max_position_embeddings", None)
                self._switches.append(original or config.max_position_embeddings)
            elif "dynamic" in kind:
                self._changes_beyond = min(self._changes_beyond, config.max_position_embeddings)

    def __bool__(self) -> bool:
        """Whether there is any dependence."""
        return self._reads_padding or bool(self._switches) or self._changes_beyond < math.inf

    def of(self, length: int) -> int | None:
        """The regime of a row of so many tokens; None if it shares a batch with no other row."""
        if self._reads_padding or length > self._changes_beyond:
            return None
        return sum(length > switch for switch in self._switches)

    def end(self, length: int) -> float:
        """The most tokens in the regime of a row of so many."""
        ends = [*self._switches, self._changes_beyond]
        return min((end for end in ends if end >= length), default=math.inf)

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """The places of rows that may share a batch, in groups; `lengths` are the rows' tokens."""
        shared: dict[int, list[int]] = {}
        alone = []
        for place, length in enumerate(lengths):
            regime = self.of(length)
            if regime is None:
                alone.append([place])
            else:
                shared.setdefault(regime, []).append(place)
        return [*shared.values(), *alone]

    def forget(self) -> None:
        """Makes the model forget the frequencies of earlier batches; before each one."""
        if self._changes_beyond == math.inf:
            return
        for module in self._model.modules():
            if hasattr(module, "original_max_seq_len"):
                _forget_frequencies(module)

    def message(self) -> str:
        """What a user may want to know, as one line."""
        if self._reads_padding:
            return f"{self._name} does not look at the attention mask: it works on one row at a time"
        ends = ", ".join(f"{end:,.0f}" for end in (*self._switches, self._changes_beyond) if end < math.inf)
        how = "one at a time" if self._changes_beyond < math.inf else "apart from shorter ones"
        return (
            f"The rotary frequencies of {self._name} depend on the longest row of a batch: it works on rows of more "
            f"than {ends} tokens {how}"
        )


def _rope_parameters(config: Any) -> Iterator[Mapping[str, Any]]:
    """The rotary parameters of a model; some have others for each type of layer."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if isinstance(rope, Mapping):
        yield rope
        yield from (each for each in rope.values() if isinstance(each, Mapping))


def _forget_frequencies(module: nn.Module) -> None:
    """Puts the frequencies of a rotary embedding back, as it does itself before a short enough row."""
    for name, original in list(vars(module).items()) + list(module.named_buffers(recurse=False)):
        if not name.endswith("original_inv_freq"):
            continue
        prefix = name.removesuffix("original_inv_freq")
        current = getattr(module, f"{prefix}inv_freq")
        module.register_buffer(f"{prefix}inv_freq", original.to(current.device), persistent=False)
        if hasattr(module, f"{prefix}max_seq_len_cached"):
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
