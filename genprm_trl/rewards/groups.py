"""Rewards that need all completions of a prompt, where a group may be spread over several processes.

TRL calls a reward function in each process with the completions of that process. A generation batch holds whole
groups; the part of one process may not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, TypeVar

from accelerate.utils import gather_object

Value = TypeVar("Value")


def whole_groups(prompts: Sequence[Any], values: Sequence[Value]) -> tuple[list[list[Value]], int]:
    """The values of all processes, by the group that they belong to. Every process must call it.

    Neighbours with equal prompts are a group, as TRL lays them out.

    Args:
        prompts: The prompt of each completion of this process.
        values: What is needed of each completion. It is sent to the other processes.

    Returns:
        The values of each group, in the order of the batch, and the place of this process's first completion in it.
    """
    theirs = gather_object([list(zip(prompts, values, strict=True))])
    first = sum(map(len, theirs[: _process_index()]))
    batch = [pair for pairs in theirs for pair in pairs]
    return [[value for _, value in members] for _, members in groupby(batch, key=lambda pair: pair[0])], first


def reward_groups(
    prompts: Sequence[Any],
    values: Sequence[Value],
    reward: Callable[[list[Value]], Sequence[float | None]],
) -> list[float | None]:
    """The rewards of this process's completions, from a function of whole groups.

    Args:
        prompts: The prompt of each completion of this process.
        values: What the function needs of each completion.
        reward: Rewards the members of a group. It is called for the groups with a completion of this process.
    """
    groups, first = whole_groups(prompts, values)
    rewards: list[float | None] = []
    start = 0
    for group in groups:
        if start < first + len(values) and start + len(group) > first:
            members = list(reward(group))
            rewards += members[max(first - start, 0) : first + len(values) - start]
        start += len(group)
    return rewards


def _process_index() -> int:
    from accelerate import PartialState

    return int(PartialState().process_index)
