"""How good step judgements are: ProcessBench scores, bootstrap intervals, calibration. Pure functions.

Scores that the data leave undefined (the accuracy on a class that has no members) are None, which JSON can carry and a
table cannot mistake for a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

# ---------------------------------------------------------------------------------------------------------------------
# ProcessBench


def processbench_scores(labels: Sequence[int], predictions: Sequence[int | None]) -> dict[str, float | None]:
    """ProcessBench's scores (arXiv 2412.06559, section 4.1).

    Args:
        labels: Index from 0 of each solution's first wrong step, -1 for none. Shape (B,).
        predictions: The predicted indices in the same order; None (no readable prediction) counts as wrong.

    Returns:
        In per cent: `error_acc`, the share of exact predictions among the solutions with an error; `correct_acc`, the
        same among those without; `f1`, their harmonic mean (0 if both are 0). A class without members has accuracy
        None, and then `f1` is None too, since one class says nothing of the balance that it measures.

    Raises:
        ValueError: The lengths differ, or a label is not an integer of at least -1.

    Examples:
        >>> processbench_scores([1, 2, -1, -1], [1, 0, -1, None])
        {'error_acc': 50.0, 'correct_acc': 50.0, 'f1': 50.0}
    """
    if len(labels) != len(predictions):
        raise ValueError(f"{len(labels)} labels for {len(predictions)} predictions")
    right = {True: 0, False: 0}
    total = {True: 0, False: 0}
    for index, (label, prediction) in enumerate(zip(labels, predictions, strict=True)):
        if isinstance(label, bool) or not isinstance(label, int | np.integer) or label < -1:
            raise ValueError(f"label {index} must be an integer of at least -1, not {label!r}")
        total[label != -1] += 1
        right[label != -1] += prediction is not None and prediction == label
    error_acc = 100.0 * right[True] / total[True] if total[True] else None
    correct_acc = 100.0 * right[False] / total[False] if total[False] else None
    return {"error_acc": error_acc, "correct_acc": correct_acc, "f1": _harmonic_mean(error_acc, correct_acc)}


def _harmonic_mean(a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return None
    return 2 * a * b / (a + b) if a + b else 0.0


def average_scores(splits: Iterable[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The plain mean of several splits' scores, whatever their sizes, as ProcessBench reports its average.

    A score that is None in one split has no mean over all of them, and is None.

    Raises:
        ValueError: There is no split, or they have different scores.
    """
    rows = list(splits)
    if not rows:
        raise ValueError("there are no splits to average")
    if any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError("the splits have different scores")
    averaged: dict[str, float | None] = {}
    for key in rows[0]:
        values = [row[key] for row in rows]
        known = [value for value in values if value is not None]
        averaged[key] = math.fsum(known) / len(known) if len(known) == len(values) else None
    return averaged


def prediction_from_rewards(rewards: Sequence[float], threshold: float = 0.5) -> int:
    """Index from 0 of the first step whose reward is below the threshold, -1 for none.

    Raises:
        ValueError: A reward is NaN, which is neither below a threshold nor above it.
    """
    for index, reward in enumerate(rewards):
        if math.isnan(reward):
            raise ValueError(f"the reward of step {index} is NaN")
        if reward < threshold:
            return index
    return -1


def best_threshold(labels: Sequence[int], rewards: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The threshold with the highest ProcessBench F1, for choosing it on other data than it is then measured on.

    Exact: considers every threshold that makes a difference. Among equals, the one nearest to 0.5.

    Args:
        labels: As for `processbench_scores`, both classes present. Shape (B,).
        rewards: The step rewards of each solution: at least `label + 1`, or one where the label is -1.

    Returns:
        The threshold and its F1 in per cent.

    Raises:
        ValueError: The lengths differ, a class is empty, or a solution has too few rewards.
    """
    if len(labels) != len(rewards):
        raise ValueError(f"{len(labels)} labels for {len(rewards)} solutions' rewards")
    # A prediction is right for thresholds t with low < t <= high: the rewards before the label reach t, its own
    # does not. A solution without error is right for t up to its lowest reward.
    error_low, error_high, correct_high = [], [], []
    for index, (label, row) in enumerate(zip(labels, rewards, strict=True)):
        if len(row) < max(label + 1, 1):
            raise ValueError(f"solution {index} has {len(row)} rewards, too few for label {label}")
        if label == -1:
            correct_high.append(min(row))
        else:
            error_low.append(row[label])
            error_high.append(min(row[:label], default=math.inf))
    if not correct_high or not error_low:
        raise ValueError("both solutions with and without an error are needed")
    low, high = np.array(error_low), np.array(error_high)
    possible = low < high
    # Between two neighbouring rewards all thresholds predict the same, so the rewards and one beyond them are enough.
    values = np.unique(np.concatenate([low, high[np.isfinite(high)], correct_high]))
    candidates = np.append(values, np.nextafter(values[-1], math.inf))
    error_right = np.searchsorted(np.sort(low[possible]), candidates, side="left") - np.searchsorted(
        np.sort(high[possible]), candidates, side="left"
    )
    correct_right = len(correct_high) - np.searchsorted(np.sort(correct_high), candidates, side="left")
    error_acc, correct_acc = error_right / len(error_low), correct_right / len(correct_high)
    both = error_acc + correct_acc
    f1 = np.divide(2 * error_acc * correct_acc, both, out=np.zeros_like(both), where=both > 0)
    best = candidates[f1 >= f1.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))]), float(100 * f1.max())


def bootstrap_interval(
    statistic: Callable[..., float | None],
    *samples: Sequence[Any],
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The percentile bootstrap interval of a statistic (Efron 1979).

    Args:
        statistic: Called with resampled `samples`; None where it is undefined, which leaves that resample out.
        samples: Sequences of one length whose elements belong together, such as labels and predictions.
        confidence: The interval's coverage.
        resamples: How many resamples to draw.
        seed: Makes the interval reproducible.

    Returns:
        The interval's ends, or None if there are no samples or no resample has the statistic.

    Raises:
        ValueError: The lengths differ, or the coverage is not between 0 and 1.

    Examples:
        >>> bootstrap_interval(lambda x: sum(x) / len(x), [0, 1] * 50)
        (0.4, 0.6)
    """
    sizes = {len(sample) for sample in samples}
    if len(sizes) != 1:
        raise ValueError(f"the samples must have one length, not {sorted(sizes)}")
    if not 0 < confidence < 1:
        raise ValueError(f"the coverage must be between 0 and 1, not {confidence}")
    size = sizes.pop()
    if size == 0:
        return None
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        drawn = generator.integers(size, size=size).tolist()
        value = statistic(*([sample[index] for index in drawn] for sample in samples))
        if value is not None and not math.isnan(value):
            values.append(value)
    if not values:
        return None
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


# ---------------------------------------------------------------------------------------------------------------------
# Step rewards as probabilities


def step_auroc(labels: Sequence[bool], rewards: Sequence[float]) -> float | None:
    """Area under the ROC curve of step rewards, in [0, 1]; None unless there are both right and wrong steps.

    Args:
        labels: Whether each step is right. Shape (S,).
        rewards: The steps' rewards. Shape (S,).
    """
    if len(labels) != len(rewards):
        raise ValueError(f"{len(labels)} labels for {len(rewards)} rewards")
    if len({bool(label) for label in labels}) < 2:
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score([bool(label) for label in labels], rewards))


def best_step_accuracy(labels: Sequence[bool], rewards: Sequence[float]) -> tuple[float, float]:
    """The threshold that judges the most steps rightly, and the share of them in [0, 1].

    A step whose reward is below the threshold is judged wrong. Among equals, the threshold nearest to 0.5.

    Args:
        labels: Whether each step is right. Shape (S,), at least one.
        rewards: The steps' rewards. Shape (S,).

    Raises:
        ValueError: The lengths differ, or there are no steps.
    """
    if len(labels) != len(rewards) or not len(labels):
        raise ValueError(f"{len(labels)} labels for {len(rewards)} rewards; at least one of each is needed")
    truth, values = np.asarray(labels, dtype=bool), np.asarray(rewards, dtype=float)
    distinct = np.unique(values)
    # 0.5 is one of the candidates, since between two rewards all thresholds judge the same.
    candidates = np.concatenate([distinct, [np.nextafter(distinct[-1], math.inf), 0.5]])
    right, wrong = np.sort(values[truth]), np.sort(values[~truth])
    hits = len(right) - np.searchsorted(right, candidates) + np.searchsorted(wrong, candidates)
    best = candidates[hits == hits.max()]
    return float(best[np.argmin(np.abs(best - 0.5))]), float(hits.max() / len(truth))


def calibration_error(labels: Sequence[bool], probabilities: Sequence[float], bins: int = 10) -> float | None:
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599): how far P(Yes) is from the share of right steps.

    Args:
        labels: Whether each step is right. Shape (S,).
        probabilities: P(Yes) of each step in [0, 1]. Shape (S,).
        bins: Number of bins of equal width.

    Returns:
        The mean over the bins, weighted by their sizes, of |mean probability - share of right steps|; None without
        steps.

    Raises:
        ValueError: The lengths differ, or a probability is outside [0, 1].
    """
    if len(labels) != len(probabilities):
        raise ValueError(f"{len(labels)} labels for {len(probabilities)} probabilities")
    if not len(labels):
        return None
    right, probability = np.asarray(labels, dtype=float), np.asarray(probabilities, dtype=float)
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("probabilities must be in [0, 1]")
    bin_of = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=probability - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))
