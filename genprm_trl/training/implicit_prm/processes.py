"""A model that each process trains on completions of its own, kept the same in all of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import distributed


def is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def copy_from_first(tensors: Iterable[torch.Tensor]) -> None:
    """Gives every process the first one's values, in place."""
    if is_distributed():
        for tensor in tensors:
            distributed.broadcast(tensor.data, src=0)


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes; every process must call this, and gets it."""
    if is_distributed():
        distributed.all_reduce(values)
    return values


def add_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Adds up gradients over all processes, in place. A process that has none contributes zeros."""
    if not is_distributed():
        return
    pending = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        pending.append(distributed.all_reduce(parameter.grad, async_op=True))
    for reduction in pending:
        reduction.wait()
