"""Several verifiers on the same solutions: what each is worth, how sure the differences are, how far they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from genprm_trl.metrics.estimates import ScoreEstimate, paired_estimates
from genprm_trl.metrics.processbench import SCORES, calibration_error, compare, scores_of_hits, step_auroc
from genprm_trl.records import Verdict

# ProcessBench's scores, and two of the rewards; all in per cent. Of the calibration error a lower value is better.
COMPARED = (*SCORES, "step_auroc", "step_ece")


@dataclass(slots=True)
class Comparison:
    """What V verifiers are worth on the same solutions.

    Attributes:
        labelled: Solutions with a label, over which the scores are.
        steps: Steps up to the first wrong one that all verifiers judged: those of the scores of rewards.
        unshared: Such steps that some verifiers judged and others did not. They are in no score of rewards.
        agreement: Share of the solutions, in per cent, for which two verifiers have the same prediction. A verifier
            without a readable prediction agrees with none, itself included. Shape (V, V).
        scores: Of each verifier the scores of `COMPARED`; empty without labels.
        differences: Of each two, i before j, the scores of i minus those of j, over the same resamples.
        only_right: Labelled solutions for which i is right and j is not. Shape (V, V).
    """

    labelled: int
    steps: int
    unshared: int
    agreement: list[list[float]]
    scores: list[dict[str, ScoreEstimate]] = field(default_factory=list)
    differences: dict[tuple[int, int], dict[str, ScoreEstimate]] = field(default_factory=dict)
    only_right: list[list[int]] = field(default_factory=list)


def compare_verdicts(verdicts: Sequence[Sequence[Verdict]], *, resamples: int = 1000, seed: int = 0) -> Comparison:
    """Compares verifiers by their verdicts on the same solutions.

    Each verdict's own prediction counts. Where a prediction rests on a step without a verdict it is wrong, and the
    reward of such a step is 0.5, as in `genprm report`.

    Args:
        verdicts: Of each verifier its verdicts, in the same order of solutions, none of which failed. Labels are
            those of the first verifier's. Shape (V, B), B at least 1.
        resamples: Bootstrap resamples of the solutions; all verifiers are scored on each.
        seed: Fixes the resamples.
    """
    predictions = [[verdict.scored_prediction for verdict in each] for each in verdicts]
    agreement = [
        [
            100 * sum(a is not None and a == b for a, b in zip(one, other, strict=True)) / len(one)
            for other in predictions
        ]
        for one in predictions
    ]
    rows = [row for row in zip(*verdicts, strict=True) if row[0].label is not None]
    labels = [row[0].label for row in rows if row[0].label is not None]
    owners: list[int] = []  # the solution of each step
    right: list[bool] = []
    rewards: list[tuple[float, ...]] = []  # of each step, one for each verifier
    unshared = 0
    for owner, (label, row) in enumerate(zip(labels, rows, strict=True)):
        judged = [len(verdict.rewards) for verdict in row]
        known = max(judged) if label == -1 else min(label + 1, max(judged))
        shared = min(known, *judged)
        unshared += known - shared
        owners += [owner] * shared
        right += [step != label for step in range(shared)]
        rewards += zip(*(verdict.rewards[:shared] for verdict in row), strict=True)
    result = Comparison(len(rows), len(owners), unshared, agreement)
    if not rows:
        return result

    wrong, hits = compare(labels, [[verdict.scored_prediction for verdict in row] for row in rows])
    truth, columns = np.asarray(right, dtype=bool), np.asarray(rewards, dtype=float).reshape(-1, len(verdicts)).T
    of_solution = np.asarray(owners, dtype=int)

    def scores(chosen: np.ndarray) -> np.ndarray:
        # A solution that was drawn twice brings its steps twice.
        times = np.bincount(chosen, minlength=len(rows))[of_solution]
        steps = np.repeat(np.arange(len(of_solution)), times)
        of_rewards = [[_per_cent(score(truth[steps], column[steps])) for column in columns]
                      for score in (step_auroc, calibration_error)]  # fmt: skip
        return np.vstack([scores_of_hits(wrong[chosen], hits[chosen]), of_rewards]).T

    each, differences = paired_estimates(len(rows), scores, resamples=resamples, seed=seed)
    result.scores = [dict(zip(COMPARED, row, strict=True)) for row in each]
    result.differences = {pair: dict(zip(COMPARED, row, strict=True)) for pair, row in differences.items()}
    result.only_right = (hits.T.astype(int) @ ~hits).tolist()
    return result


def _per_cent(value: float | None) -> float:
    return np.nan if value is None else 100 * value
