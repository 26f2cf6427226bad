"""MR-GSM8K's scores (Zeng et al. 2023, arXiv 2312.17080), and how far two judges agree. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence


def matthews(tp: float, tn: float, fp: float, fn: float) -> float:
    """The Matthews correlation coefficient in [-1, 1]; 0 where it is undefined, as it is without one of the classes.

    Args:
        tp: Right solutions judged right.
        tn: Wrong solutions judged wrong.
        fp: Wrong solutions not judged wrong.
        fn: Right solutions not judged right.

    Examples:
        >>> matthews(3, 1, 1, 1)
        0.25
        >>> matthews(0, 4, 0, 0)
        0.0
    """
    root = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / root if root else 0.0


def mr_score(mcc: float, step_accuracy: float, reason_accuracy: float = 0.0) -> float:
    """MR-Score of shares in [0, 1]; without the reasons it is 0.5 at most.

    Args:
        mcc: The Matthews correlation coefficient of right and wrong. Below 0 it counts as 0.
        step_accuracy: Of the wrong solutions, the share whose first wrong step is named exactly.
        reason_accuracy: Of the wrong solutions, the share for which the explanation is accepted as well.

    Examples:
        >>> round(mr_score(0.633, 0.488, 0.463), 4)  # GPT-4-Turbo in the benchmark's table
        0.5045
    """
    return 0.2 * max(0.0, mcc) + 0.3 * step_accuracy + 0.5 * reason_accuracy


def cohen_kappa(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Cohen's kappa of two judges: their agreement beyond what their shares of yes explain.

    Args:
        first: What one judge says of each item. Shape (B,), at least one.
        second: What the other says. Shape (B,).

    Returns:
        At most 1; NaN if both say the same of all items.

    Raises:
        ValueError: The lengths differ, or there are no items.

    Examples:
        >>> cohen_kappa([True, True, False, False], [True, False, False, False])
        0.5
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"{len(first)} and {len(second)} judgements; as many are needed, and at least one")
    size = len(first)
    agreement = sum(bool(a) == bool(b) for a, b in zip(first, second, strict=True)) / size
    yes, other = sum(map(bool, first)) / size, sum(map(bool, second)) / size
    by_chance = yes * other + (1 - yes) * (1 - other)
    return (agreement - by_chance) / (1 - by_chance) if by_chance < 1 else math.nan
