"""Keys and values of batches, which the next request of a conversation starts from.

While a batch runs, they lie in a `GrowingLayer` per layer of the model, which takes in a token without copying the
earlier ones. Between batches a `PrefixCache` keeps them, so that the next request computes only its new tokens.
"""

from __future__ import annotations

import inspect
import itertools
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from genprm_trl.generation.hf.whole import generate_whole

# Less in common is computed again as quickly as it is found.
_MIN_SHARED = 16

# Columns that a growing layer has to spare: at least so many, and a share of those in use. A copy every so many tokens
# costs next to nothing, and memory stays close to what is needed.
_SPARE_COLUMNS = 64
_SPARE_SHARE = 8


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


def growing_cache() -> Cache:
    """An empty cache whose layers are `GrowingLayer`s, added as the model asks for them."""
    return Cache(layer_class_to_replicate=GrowingLayer)


Parts = list[torch.Tensor]
"""Keys and values of one sequence, those of alike layers stacked: each of shape `(layers, heads, tokens, head size)`.

In the order keys, values of the first layer, of the second, ... A GPU takes as long to start copying one layer as it
takes to copy all.
"""


@dataclass(slots=True, eq=False)
class _Prefix:
    tokens: npt.NDArray[np.int32]
    parts: Parts

    def shared_with(self, tokens: npt.NDArray[np.int32]) -> int:
        """How many of the first tokens are the same."""
        length = min(len(self.tokens), len(tokens))
        differs = self.tokens[:length] != tokens[:length]
        return int(differs.argmax()) if differs.any() else length

    def bytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


class PrefixCache:
    """Remembers keys and values of token sequences and starts batches from them.

    Args:
        model: The model. Its weights must not change as long as anything is remembered.
        max_bytes: Bound on what is remembered; the least recently used sequences are forgotten first.
    """

    def __init__(self, model: PreTrainedModel, max_bytes: int):
        self._model = model
        self._max_bytes = max_bytes
        # Tokens of padding in a batch that cost less than a separate batch.
        self._free_padding = 0 if model.device.type == "cpu" else 2048
        self._bytes = 0
        self._prefixes: OrderedDict[int, _Prefix] = OrderedDict()  # by age of their last use
        self._by_start: dict[bytes, list[int]] = {}
        self._count = 0

    @staticmethod
    def supports(model: PreTrainedModel) -> bool:
        """Whether the cache of a model can be taken apart and put together.

        It needs the keys and values of every token (no sliding windows, no recurrent state), positions that are told
        and not counted from the columns, and an attention that takes any mask.
        """
        return (
            "position_ids" in inspect.signature(model.forward).parameters
            and model.config._attn_implementation in ("sdpa", "eager")
            and all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
        )

    def start(self, sequences: Sequence[list[int]]) -> Cache:
        """A cache of all but the last token of each sequence, for a left-padded batch of them.

        What is not remembered is computed: equal sequences once, those with about as many missing tokens together, so
        that a long new prompt does not make its short neighbours pad to its length.
        """
        wanted = [np.asarray(sequence[:-1], dtype=np.int32) for sequence in sequences]
        found = {tokens.tobytes(): self._find(tokens) for tokens in wanted}
        missing = {key: len(key) // 4 - len(prefix.tokens) for key, prefix in found.items()}
        todo = sorted((key for key in missing if missing[key]), key=missing.__getitem__, reverse=True)
        while todo:
            group, longest, padding = [], missing[todo[0]], 0
            for key in todo:
                padding += longest - missing[key]
                if 2 * missing[key] < longest and padding > self._free_padding:
                    break
                group.append(key)
            todo = todo[len(group) :]
            found |= self._compute({key: found[key] for key in group})
        return _stack([found[tokens.tobytes()].parts for tokens in wanted])

    def keep(self, tokens: list[int], cache: Cache, row: int, start: int) -> None:
        """Remembers a row of a batch: the keys and values from column `start` on, which are those of `tokens`."""
        end = min(start + len(tokens), cache.get_seq_length())
        ids = np.asarray(tokens[: end - start], dtype=np.int32)
        if len(ids) < _MIN_SHARED:
            return
        for key in list(self._alike(ids)):
            shared = self._prefixes[key].shared_with(ids)
            if shared == len(ids):
                return  # it is part of a longer one
            if shared == len(self._prefixes[key].tokens):
                self._forget(key)
        prefix = _Prefix(ids, _cut_out(cache, row, slice(start, end)))
        self._bytes += prefix.bytes()
        self._count += 1
        self._prefixes[self._count] = prefix
        self._by_start.setdefault(ids[:_MIN_SHARED].tobytes(), []).append(self._count)
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._prefixes)))

    def clear(self) -> None:
        """Forgets everything."""
        for key in list(self._prefixes):
            self._forget(key)

    def __len__(self) -> int:
        """Sequences remembered."""
        return len(self._prefixes)

    def _alike(self, tokens: npt.NDArray[np.int32]) -> Iterable[int]:
        return self._by_start.get(tokens[:_MIN_SHARED].tobytes(), ())

    def _find(self, tokens: npt.NDArray[np.int32]) -> _Prefix:
        """The longest remembered beginning of a sequence; may be empty."""
        best, shared = None, 0
        for key in self._alike(tokens):
            length = self._prefixes[key].shared_with(tokens)
            if length > shared:
                best, shared = key, length
        if best is None:
            return _Prefix(tokens[:0], [])
        self._prefixes.move_to_end(best)
        return _Prefix(tokens[:shared], [part[:, :, :shared] for part in self._prefixes[best].parts])

    def _forget(self, key: int) -> None:
        prefix = self._prefixes.pop(key)
        self._bytes -= prefix.bytes()
        start = prefix.tokens[:_MIN_SHARED].tobytes()
        self._by_start[start].remove(key)
        if not self._by_start[start]:
            del self._by_start[start]

    def _compute(self, group: dict[bytes, _Prefix]) -> dict[bytes, _Prefix]:
        """Computes what the prefixes lack of their sequences (the keys), all in one batch.

        Its columns are the known tokens, right-aligned, and then the new ones, right-aligned: the padding of the new
        ones lies between the two. Neither mask nor positions mind.
        """
        sequences = {key: np.frombuffer(key, dtype=np.int32) for key in group}
        known = max(len(prefix.tokens) for prefix in group.values())
        new = max(len(sequences[key]) - len(prefix.tokens) for key, prefix in group.items())
        input_ids = torch.zeros(len(group), known + new, dtype=torch.long)
        attention_mask = torch.zeros_like(input_ids)
        starts = []  # of the known and of the new tokens of each row
        for row, (key, prefix) in enumerate(group.items()):
            tokens = torch.from_numpy(sequences[key].astype(np.int64))
            old = len(prefix.tokens)
            starts.append((known - old, known + new - (len(tokens) - old)))
            input_ids[row, starts[-1][0] : known], input_ids[row, starts[-1][1] :] = tokens[:old], tokens[old:]
            attention_mask[row, starts[-1][0] : known] = attention_mask[row, starts[-1][1] :] = 1
        cache = _stack([prefix.parts for prefix in group.values()])
        # One token is the least that generate does; it is not used.
        generate_whole(self._model, input_ids, attention_mask, max_new_tokens=1, cache=cache)
        done = {}
        for row, (key, (old_start, new_start)) in enumerate(zip(group, starts, strict=True)):
            before = _cut_out(cache, row, slice(old_start, known))
            added = _cut_out(cache, row, slice(new_start, known + new))
            done[key] = _Prefix(sequences[key], [torch.cat(pair, 2) for pair in zip(before, added, strict=True)])
        return done


def _cut_out(cache: Cache, row: int, columns: slice) -> Parts:
    """A copy of some columns of a row."""
    tensors = [tensor[row, :, columns] for layer in cache.layers for tensor in (layer.keys, layer.values)]
    alike = itertools.groupby(tensors, key=lambda tensor: (tensor.device, tensor.dtype, tensor.shape))
    return [torch.stack(list(group)) for _, group in alike]


def _stack(rows: Sequence[Parts]) -> Cache:
    """A cache with the given keys and values in its rows, aligned to the right and padded with zeros."""
    cache = growing_cache()
    filled = [(row, parts) for row, parts in enumerate(rows) if parts and parts[0].shape[2]]
    if not filled:
        return cache
    lengths = torch.tensor([parts[0].shape[2] for _, parts in filled])
    columns = int(lengths.max())
    # Where the tokens of all rows, one after another, belong.
    row_of = torch.repeat_interleave(torch.tensor([row for row, _ in filled]), lengths)
    column_of = torch.cat([torch.arange(columns - length, columns) for length in lengths.tolist()])
    tensors = []
    for group, example in enumerate(filled[0][1]):
        where = row_of.to(example.device), column_of.to(example.device)
        for layer in range(len(example)):
            joined = torch.cat([parts[group][layer] for _, parts in filled], 1)
            stacked = joined.new_zeros(len(rows), columns, joined.shape[0], joined.shape[2])
            stacked[where] = joined.transpose(0, 1)
            tensors.append(stacked.transpose(1, 2))
            if len(tensors) == 2:
                cache.update(*tensors, len(cache.layers))
                tensors = []
    return cache
