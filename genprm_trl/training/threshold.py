"""Choosing the threshold of a verifier on held-out solutions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from genprm_trl.errors import DataError
from genprm_trl.metrics.processbench import best_threshold
from genprm_trl.records import Solution
from genprm_trl.verifier.scorer import StepScorer


def check_held_out(solutions: Sequence[Solution], trained: Iterable[str], name: str) -> None:
    """Checks that a threshold can be chosen on solutions, and that training has not seen their problems.

    Args:
        solutions: The solutions.
        trained: The problems of the training data.
        name: What errors call the solutions.

    Raises:
        DataError: A solution has no label, a class of labels is empty, or a problem is also trained on.
    """
    unlabelled = next((each for each in solutions if each.label is None), None)
    if unlabelled is not None:
        raise DataError(f"is missing in solution '{unlabelled.id}': a threshold needs it", file=name, field="label")
    if len({each.label == -1 for each in solutions}) < 2:
        raise DataError("needs solutions with a wrong step and without one, to choose a threshold", file=name)
    shared = {each.problem for each in solutions} & {*trained}
    if shared:
        raise DataError(
            f"has {len(shared)} problems that are trained on; a threshold is chosen on problems that are held out",
            file=name,
        )


def chosen_threshold(scorer: StepScorer, solutions: Sequence[Solution], name: str) -> tuple[float, dict[str, Any]]:
    """The threshold with the highest F1 of ProcessBench on some solutions.

    Args:
        scorer: The verifier.
        solutions: Solutions with labels that `check_held_out` accepts.
        name: What they are called.

    Returns:
        The threshold; and how it was chosen: `data`, `solutions` (their number) and `f1`, in per cent.
    """
    verdicts = scorer.score(solutions)
    labels = [-1 if each.label is None else each.label for each in solutions]
    threshold, f1 = best_threshold(labels, [verdict.read_rewards for verdict in verdicts])
    # It may lie one step of floating point above the highest reward, which is 1 at most.
    threshold = min(threshold, 1.0) if math.isfinite(threshold) else 0.5
    return threshold, {"data": name, "solutions": len(solutions), "f1": round(f1, 2)}
