"""Means over problems with their bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from genprm_trl.chain_metrics import ScoreEstimate


def mean_estimate(values: Sequence[float], *, resamples: int = 1000, seed: int = 0) -> ScoreEstimate:
    """The mean of a share over problems, in per cent, with its 95 % bootstrap interval and standard error.

    Two ways that are measured on the same problems are compared by the differences of their values, problem by
    problem; their intervals alone say less.

    Args:
        values: One for each problem, such as the accuracy in [0, 1] or a difference of two. Shape (B,).
        resamples: Bootstrap resamples of the problems.
        seed: Fixes the resamples; equal seeds draw the same problems.

    Raises:
        ValueError: There are no values.

    Examples:
        >>> mean_estimate([1.0, 0.0, 1.0, 1.0]).value
        75.0
    """
    if not len(values):
        raise ValueError("there are no values to average")
    data = 100 * np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    means = np.array([data[rng.integers(len(data), size=len(data))].mean() for _ in range(resamples)])
    low, high = np.percentile(means, [2.5, 97.5])
    return ScoreEstimate(math.fsum(data) / len(data), float(low), float(high), float(means.std(ddof=1)))
