"""Scores with their bootstrap errors: of ProcessBench, against the number of rationales, and of any share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genprm_trl.metrics.processbench import SCORES, compare, scores_of_hits
from genprm_trl.records import prediction_from_rewards, prediction_if_read

# Below it, the bootstrap's interval is too narrow: of one row it has no width at all.
FEWEST_ROWS = 20
# The 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom; the last one serves for more, too.
_T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True, slots=True)
class ScoreEstimate:
    """A score in per cent with the bounds of its 95 % bootstrap interval over solutions, and its standard error."""

    value: float
    low: float
    high: float
    stderr: float


def processbench_estimates(
    labels: Sequence[int],
    predictions: Sequence[Sequence[int | None]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, ScoreEstimate]:
    """ProcessBench's scores of one verifier, or their averages over several, with bootstrap errors over solutions.

    Args:
        labels: Index of each solution's first wrong step, -1 for none. Shape (B,).
        predictions: What each of G verifiers predicts for each solution; None counts as wrong. Shape (B, G).
        resamples: Bootstrap resamples of the solutions.
        seed: Fixes the resamples.

    Returns:
        `error_acc`, `correct_acc` and `f1`, as `metrics.processbench_scores` defines them; NaN where it says None.

    Raises:
        ValueError: The lengths differ, there are no predictions, or a label is not an integer of at least -1.
    """
    if len(labels) != len(predictions):
        raise ValueError(f"{len(labels)} labels for the predictions of {len(predictions)} solutions")
    if not predictions or not predictions[0] or len({len(row) for row in predictions}) > 1:
        raise ValueError("every solution needs the same number of predictions, and at least one")
    wrong, hits = compare(labels, predictions)
    values = scores_of_hits(wrong, hits)
    drawn = _bootstrap(
        len(labels), lambda rows: scores_of_hits(wrong[rows], hits[rows]).mean(axis=1), resamples, seed
    ).reshape(-1, len(SCORES))
    return {
        name: _estimate(math.fsum(each) / len(each), samples)
        for name, each, samples in zip(SCORES, values, drawn.T, strict=True)
    }


def processbench_by_votes(
    labels: Sequence[int],
    chains: Sequence[Sequence[Sequence[float]]],
    n: int,
    *,
    threshold: float = 0.5,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, ScoreEstimate]:
    """ProcessBench's scores of Maj@N, averaged over all disjoint groups of N chains.

    With M chains a solution there are M // N such groups; each is scored as a separate verifier, and the scores are
    averaged, so that Pass@1 uses every chain and does not hang on the luck of the first.

    Args:
        labels: Index of each solution's first wrong step, -1 for none; both classes present. Shape (B,).
        chains: Step rewards, `chains[b][m][t]`; all chains of a solution judge the same steps. NaN stands for no
            verdict: the average takes 0.5 for it, and a prediction that rests on a step without any counts as wrong.
        n: Chains averaged, from 1 to M.
        threshold: A step whose averaged reward is below it is predicted wrong.
        resamples: Bootstrap resamples of the solutions.
        seed: Fixes the resamples.

    Returns:
        `error_acc`, `correct_acc` and `f1`, as `metrics.processbench_scores` defines them.

    Raises:
        ValueError: The lengths differ, there are fewer than `n` chains, or a class has no members.
    """
    if len(labels) != len(chains):
        raise ValueError(f"{len(labels)} labels for the chains of {len(chains)} solutions")
    groups = min((len(solution) for solution in chains), default=0) // n if n > 0 else 0
    if groups < 1:
        raise ValueError(f"Maj@{n} needs at least {max(n, 1)} chains a solution")
    truth = np.asarray(labels)
    wrong = truth != -1
    if wrong.all() or not wrong.any():
        raise ValueError("the scores need solutions with and without a wrong step")
    predictions = [
        [_vote(np.asarray(solution[group * n : (group + 1) * n], dtype=float), threshold) for group in range(groups)]
        for solution in chains
    ]
    return processbench_estimates(labels, predictions, resamples=resamples, seed=seed)


def _vote(rewards: np.ndarray, threshold: float) -> int | None:
    """What the chains of `rewards`, shape (N, T), predict together."""
    read = ~np.isnan(rewards)
    averages = np.where(read, rewards, 0.5).mean(axis=0)
    return prediction_if_read(prediction_from_rewards(averages.tolist(), threshold), read.any(axis=0).tolist())


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
    means = _bootstrap(len(data), lambda rows: data[rows].mean(), resamples, seed)
    return _estimate(math.fsum(data) / len(data), means)


def interval_over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """The bounds of the 95 % interval of a mean over a few trainings, by Student's t; NaN for a single one.

    A bootstrap of three values says nothing of how far their mean is off.

    Args:
        values: One for each training, such as each seed's score. Shape (S,).

    Raises:
        ValueError: There are no values.

    Examples:
        >>> [round(bound, 2) for bound in interval_over_seeds([10.0, 11.0, 12.0])]
        [8.52, 13.48]
    """
    if not values:
        raise ValueError("there are no values to average")
    if len(values) == 1:
        return math.nan, math.nan
    middle = math.fsum(values) / len(values)
    quantile = _T_QUANTILES[min(len(values) - 1, len(_T_QUANTILES)) - 1]
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return middle - half, middle + half


def bootstrap_estimate(
    size: int, statistic: Callable[[np.ndarray], float], *, resamples: int = 1000, seed: int = 0
) -> ScoreEstimate:
    """Any score of some rows, with its 95 % bootstrap interval and standard error.

    Args:
        size: Number of rows.
        statistic: Makes the score of chosen rows, of which it is given the indices; NaN where they leave it undefined.
        resamples: Bootstrap resamples of the rows.
        seed: Fixes the resamples.

    Examples:
        >>> bootstrap_estimate(4, lambda rows: float(rows.max())).value
        3.0
    """
    return _estimate(statistic(np.arange(size)), _bootstrap(size, statistic, resamples, seed))


def paired_estimates(
    size: int, statistic: Callable[[np.ndarray], np.ndarray], *, resamples: int = 1000, seed: int = 0
) -> tuple[list[list[ScoreEstimate]], dict[tuple[int, int], list[ScoreEstimate]]]:
    """Scores of several verifiers on the same rows, and their differences, all from the same resamples.

    What makes a row easy or hard for both verifiers cancels out of the difference of two (Efron 1979; paired).

    Args:
        size: Number of rows.
        statistic: Makes the scores of V verifiers on chosen rows, of which it is given the indices. Shape (V, S); NaN
            where they leave a score undefined.
        resamples: Bootstrap resamples of the rows.
        seed: Fixes the resamples.

    Returns:
        The S scores of each verifier; and for each two, i before j, the S differences of i minus j.
    """
    values, samples = statistic(np.arange(size)), _bootstrap(size, statistic, resamples, seed)

    def estimates(row: np.ndarray, drawn: np.ndarray) -> list[ScoreEstimate]:
        return [_estimate(float(value), column) for value, column in zip(row, drawn.T, strict=True)]

    pairs = itertools.combinations(range(len(values)), 2)
    return (
        [estimates(row, samples[:, i]) for i, row in enumerate(values)],
        {(i, j): estimates(values[i] - values[j], samples[:, i] - samples[:, j]) for i, j in pairs},
    )


def _bootstrap(size: int, statistic: Callable[[np.ndarray], Any], resamples: int, seed: int) -> np.ndarray:
    """A statistic of resampled rows (Efron 1979). Shape (resamples, ...)."""
    rng = np.random.default_rng(seed)
    return np.array([statistic(rng.integers(size, size=size)) for _ in range(resamples)])


def _estimate(value: float, samples: np.ndarray) -> ScoreEstimate:
    samples = samples[~np.isnan(samples)]  # a resample without one of the classes says nothing
    low, high = np.percentile(samples, [2.5, 97.5]) if len(samples) else (math.nan, math.nan)
    stderr = float(samples.std(ddof=1)) if len(samples) > 1 else math.nan
    return ScoreEstimate(value, float(low), float(high), stderr)
