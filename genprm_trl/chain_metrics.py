"""Scores against the number of rationales: what Maj@N is worth, read off chains that were sampled once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genprm_trl.metrics import prediction_from_rewards


@dataclass(frozen=True, slots=True)
class ScoreEstimate:
    """A score in per cent with the bounds of its 95 % bootstrap interval over solutions."""

    value: float
    low: float
    high: float


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

    With M chains a solution there are M // N such groups; each is scored as a verifier of its own, and the scores are
    averaged, so that Pass@1 uses every chain and does not hang on the luck of the first.

    Args:
        labels: Index of each solution's first wrong step, -1 for none; both classes present. Shape (B,).
        chains: Step rewards, `chains[b][m][t]`; all chains of a solution judge the same steps.
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
    predictions = np.array(
        [
            [
                prediction_from_rewards(np.mean(solution[group * n : (group + 1) * n], axis=0).tolist(), threshold)
                for group in range(groups)
            ]
            for solution in chains
        ]
    )
    hits = predictions == truth[:, None]

    def scores(rows: np.ndarray) -> np.ndarray | None:
        """error_acc, correct_acc, f1 in per cent over the given solutions."""
        errors, corrects = rows[wrong[rows]], rows[~wrong[rows]]
        if not len(errors) or not len(corrects):
            return None
        error_acc, correct_acc = hits[errors].mean(axis=0), hits[corrects].mean(axis=0)
        total = error_acc + correct_acc
        f1 = np.divide(2 * error_acc * correct_acc, total, out=np.zeros_like(total), where=total > 0)
        return 100 * np.array([error_acc.mean(), correct_acc.mean(), f1.mean()])

    value = scores(np.arange(len(truth)))
    assert value is not None
    rng = np.random.default_rng(seed)
    drawn = (scores(rng.integers(len(truth), size=len(truth))) for _ in range(resamples))
    low, high = np.percentile([sample for sample in drawn if sample is not None], [2.5, 97.5], axis=0)
    return {
        name: ScoreEstimate(float(value[place]), float(low[place]), float(high[place]))
        for place, name in enumerate(("error_acc", "correct_acc", "f1"))
    }
