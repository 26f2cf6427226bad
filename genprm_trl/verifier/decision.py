"""When the rewards of some chains decide on which side of the threshold the average of all N chains is.

A step is judged wrong if the average of its N rewards is below the threshold. Averages are sums that are rounded once
(`math.fsum`), which keeps them monotonic. A bound that puts 0 or 1 in the place of the missing rewards is therefore
exact to the last bit.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence


def average(rewards: Sequence[float]) -> float:
    """The mean, the same in whatever order the rewards come."""
    return math.fsum(rewards) / len(rewards)


def is_surely_below(rewards: Sequence[float], n: int, threshold: float) -> bool:
    """Whether the average of `n` rewards in [0, 1] is below the threshold whatever the missing ones are."""
    return math.fsum((*rewards, n - len(rewards))) / n < threshold


def is_surely_not_below(rewards: Sequence[float], n: int, threshold: float) -> bool:
    """Whether the average of `n` rewards in [0, 1] is at or above the threshold whatever the missing ones are."""
    return math.fsum(rewards) / n >= threshold


def is_decided(rewards: Sequence[float], n: int, threshold: float) -> bool:
    """Whether the missing chains can no longer move the average to the other side (a curtailed vote)."""
    return is_surely_below(rewards, n, threshold) or is_surely_not_below(rewards, n, threshold)


def fewest_more(rewards: Sequence[float], n: int, threshold: float) -> int:
    """How many more chains it takes at least until the side is decided; at least 1."""

    def decide(count: int) -> bool:
        # Nothing decides faster than rewards that are all 1 or all 0. Where `count` of them do, more of them do.
        return any(is_decided([*rewards, *[reward] * count], n, threshold) for reward in (0.0, 1.0))

    return bisect.bisect_left(range(n - len(rewards)), True, lo=1, key=decide)
