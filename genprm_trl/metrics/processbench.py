"""How good step judgements are: ProcessBench's scores, thresholds, ranking, calibration. Pure functions.

Scores that the data leave undefined (the accuracy on a class that has no members) are None, which JSON can carry and a
table cannot mistake for a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

SCORES = ("error_acc", "correct_acc", "f1")


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
    scores = scores_of_hits(*compare(labels, [[prediction] for prediction in predictions]))[:, 0].tolist()
    return {name: None if math.isnan(score) else score for name, score in zip(SCORES, scores, strict=True)}


def compare(labels: Sequence[int], predictions: Sequence[Sequence[int | None]]) -> tuple[np.ndarray, np.ndarray]:
    """Which solutions have a wrong step, shape (B,), and which predictions are exactly the label, shape (B, G).

    Args:
        labels: The labels that `processbench_scores` takes. Shape (B,).
        predictions: What each of G verifiers predicts for each solution. Shape (B, G).

    Raises:
        ValueError: A label is not an integer of at least -1.
    """
    for index, label in enumerate(labels):
        if isinstance(label, bool) or not isinstance(label, int | np.integer) or label < -1:
            raise ValueError(f"label {index} must be an integer of at least -1, not {label!r}")
    rows = zip(labels, predictions, strict=True)
    hits = [[guess is not None and guess == label for guess in row] for label, row in rows]
    verifiers = len(predictions[0]) if predictions else 1
    return np.asarray(labels) != -1, np.array(hits, dtype=bool).reshape(len(labels), verifiers)


def scores_of_hits(wrong: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """ProcessBench's scores of several verifiers on the same solutions.

    Args:
        wrong: Whether each solution has a wrong step. Shape (B,).
        hits: Whether each verifier predicts exactly the label. Shape (B, G).

    Returns:
        The scores of `SCORES` in per cent, NaN where a class has no members. Shape (3, G).
    """
    errors, corrects = hits[wrong], hits[~wrong]
    undefined = np.full(hits.shape[1], np.nan)
    error_acc = 100.0 * errors.sum(axis=0) / len(errors) if len(errors) else undefined
    correct_acc = 100.0 * corrects.sum(axis=0) / len(corrects) if len(corrects) else undefined
    total = error_acc + correct_acc
    f1 = np.divide(2 * error_acc * correct_acc, total, out=np.where(total == 0, 0.0, np.nan), where=total > 0)
    return np.stack([error_acc, correct_acc, f1])


def best_threshold(labels: Sequence[int], rewards: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The threshold with the highest ProcessBench F1, for choosing it on other data than it is then measured on.

    Exact: considers every threshold that makes a difference, each in the middle between two rewards, so that rewards
    which differ by rounding are judged alike. Among equals, the one nearest to 0.5.

    Args:
        labels: The labels that `processbench_scores` takes, with both classes among them. Shape (B,).
        rewards: The step rewards of each solution: at least `label + 1`, or one where the label is -1. NaN stands for
            no verdict; a solution that needs it is right at no threshold.

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
        if any(math.isnan(reward) for reward in row[: label + 1 or None]):
            above, upto = math.inf, -math.inf
        elif label == -1:
            above, upto = -math.inf, min(row)
        else:
            above, upto = row[label], min(row[:label], default=math.inf)
        if label == -1:
            correct_high.append(upto)
        else:
            error_low.append(above)
            error_high.append(upto)
    if not correct_high or not error_low:
        raise ValueError("both solutions with and without an error are needed")
    low, high = np.array(error_low), np.array(error_high)
    possible = low < high
    # Between two neighbouring rewards all thresholds predict the same. The middle of them bears the most rounding.
    values = np.unique(np.concatenate([low, high, correct_high]))
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.5, 0.0
    left = np.append(min(values[0], 0.0), values)
    right = np.append(values, max(1.0, np.nextafter(values[-1], math.inf)))
    middle = left + (right - left) / 2
    candidates = np.where(middle > left, middle, right)
    error_right = np.searchsorted(np.sort(low[possible]), candidates, side="left") - np.searchsorted(
        np.sort(high[possible]), candidates, side="left"
    )
    correct_right = len(correct_high) - np.searchsorted(np.sort(correct_high), candidates, side="left")
    error_acc, correct_acc = error_right / len(error_low), correct_right / len(correct_high)
    both = error_acc + correct_acc
    f1 = np.divide(2 * error_acc * correct_acc, both, out=np.zeros_like(both), where=both > 0)
    best = candidates[f1 >= f1.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))]), float(100 * f1.max())


def step_auroc(labels: Sequence[bool] | np.ndarray, rewards: Sequence[float] | np.ndarray) -> float | None:
    """Area under the ROC curve of step rewards, in [0, 1]; None unless there are both right and wrong steps.

    Args:
        labels: Whether each step is right. Shape (S,).
        rewards: The steps' rewards. Shape (S,).

    Raises:
        ValueError: The lengths differ, or a reward is NaN.

    Examples:
        >>> step_auroc([True, True, False], [0.9, 0.5, 0.5])  # one pair in order, one tied
        0.75
    """
    if len(labels) != len(rewards):
        raise ValueError(f"{len(labels)} labels for {len(rewards)} rewards")
    truth, values = np.asarray(labels, dtype=bool), np.asarray(rewards, dtype=float)
    if truth.all() or not truth.any():
        return None
    if np.isnan(values).any():
        raise ValueError("a reward is NaN")
    # The Mann-Whitney statistic: the share of pairs of a right and a wrong step that the rewards put in order.
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # equal rewards share the mean of their ranks
    right, wrong = int(truth.sum()), int((~truth).sum())
    return float((ranks[truth].sum() - right * (right + 1) / 2) / (right * wrong))


def best_step_accuracy(labels: Sequence[bool], rewards: Sequence[float]) -> tuple[float, float]:
    """The threshold that judges the most steps rightly, and the share of them in [0, 1].

    A step whose reward is below the threshold is judged wrong. Among equals, the threshold nearest to 0.5.

    Args:
        labels: Whether each step is right. Shape (S,), at least one.
        rewards: The steps' rewards, NaN where there is no verdict, which is right at no threshold. Shape (S,).

    Raises:
        ValueError: The lengths differ, or there are no steps.
    """
    if len(labels) != len(rewards) or not len(labels):
        raise ValueError(f"{len(labels)} labels for {len(rewards)} rewards; at least one of each is needed")
    truth, values = np.asarray(labels, dtype=bool), np.asarray(rewards, dtype=float)
    steps = len(truth)
    truth, values = truth[~np.isnan(values)], values[~np.isnan(values)]
    # 0.5 is one of the candidates, since between two rewards all thresholds judge the same.
    candidates = np.concatenate([np.unique(values), [np.nextafter(values.max(initial=0.0), math.inf), 0.5]])
    right, wrong = np.sort(values[truth]), np.sort(values[~truth])
    hits = len(right) - np.searchsorted(right, candidates) + np.searchsorted(wrong, candidates)
    best = candidates[hits == hits.max()]
    return float(best[np.argmin(np.abs(best - 0.5))]), float(hits.max() / steps)


def calibration_error(
    labels: Sequence[bool] | np.ndarray, probabilities: Sequence[float] | np.ndarray, bins: int = 10
) -> float | None:
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
