"""A cache of keys and values that grows in place.

transformers' `DynamicLayer` concatenates at every token, which copies all keys and values of the batch for each token
that is generated: with small models or long conversations that is most of the work. Here they stand in a buffer with
room to spare, and are copied only when it is full.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

# Columns to spare: at least so many, and a share of those in use. A copy every so many tokens costs next to nothing,
# and memory stays close to what is needed.
_SPARE_COLUMNS = 64
_SPARE_SHARE = 8


def growing_cache() -> Cache:
    """An empty cache whose layers are `GrowingLayer`s, added as the model asks for them."""
    return Cache(layer_class_to_replicate=GrowingLayer)


class GrowingLayer(DynamicLayer):
    """A layer's keys and values, of shape `(rows, heads, columns, head size)`, as views of larger buffers.

    Whatever replaces `keys` and `values` (reordering, cropping, moving to a device) is noticed, and the next update
    makes new buffers of them.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds columns; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or not self._have_room(end):
            self._buffers = (
                _with_room(self.keys, key_states, start, end),
                _with_room(self.values, value_states, start, end),
            )
        keys, values = self._buffers
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def _have_room(self, end: int) -> bool:
        assert self._buffers is not None
        return all(
            end <= buffer.shape[-2] and current.data_ptr() == buffer.data_ptr() and len(current) == len(buffer)
            for buffer, current in zip(self._buffers, (self.keys, self.values), strict=True)
        )

    def reset(self) -> None:
        """Forgets everything."""
        self._buffers = None
        super().reset()


def _with_room(current: torch.Tensor, added: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """A buffer for `end` columns and some more, with the first `start` of them filled."""
    rows, heads, _, size = added.shape
    buffer = added.new_empty(rows, heads, end + max(_SPARE_COLUMNS, end // _SPARE_SHARE), size)
    if start:
        buffer[:, :, :start] = current
    return buffer
