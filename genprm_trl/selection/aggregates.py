"""Turns the rewards of a solution's steps into one score of the solution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Literal, get_args

Aggregate = Literal["min", "mean", "last", "product"]

RULES: tuple[Aggregate, ...] = get_args(Aggregate)
_FUNCTIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "mean": fmean,
    "last": lambda rewards: rewards[-1],
    "product": math.prod,
}


def aggregate(rewards: Sequence[float], rule: Aggregate = "min") -> float:
    """The score of a solution.

    Args:
        rewards: P(Yes) of each step, at least one.
        rule: `min`, the worst step's reward, and `product`, the probability that all are right if they were
            independent (both as in Lightman et al. 2023, arXiv 2305.20050); `mean`; or `last`, the last step's.

    Raises:
        ValueError: The rule is unknown, or there are no rewards.

    Example:
        >>> aggregate([0.5, 1.0], "mean")
        0.75
    """
    if rule not in RULES:
        raise ValueError(f"unknown aggregate {rule!r}: expected one of {', '.join(RULES)}")
    if not rewards:
        raise ValueError("there are no rewards to aggregate")
    return float(_FUNCTIONS[rule](rewards))
