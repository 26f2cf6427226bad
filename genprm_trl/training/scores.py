"""How well steps are judged: the scores that both trainers report at their evaluations."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from genprm_trl.metrics.processbench import processbench_scores

IGNORED = -100  # the label that cross-entropy leaves out


def step_scores(solutions: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[float, dict[str, float]]:
    """Accuracy over steps, and the scores of ProcessBench over solutions.

    Args:
        solutions: Two boolean arrays per solution, of shape (steps,): whether each step is correct, and whether it is
            judged correct. There is at least one step in all.

    Returns:
        The share of steps judged right, in [0, 1]; and `error_acc`, `correct_acc` and `f1` (see
        `metrics.processbench_scores`), in per cent. Scores without
        a solution of their class are left out, because a trainer cannot compare checkpoints by NaN.
    """
    num_right = num_steps = 0
    first_wrong: list[int] = []
    predicted: list[int] = []
    for correct, judged in solutions:
        num_right += int((correct == judged).sum())
        num_steps += len(correct)
        first_wrong.append(_first_false(correct))
        predicted.append(_first_false(judged))
    scores = processbench_scores(first_wrong, predicted)
    return num_right / num_steps, {name: score for name, score in scores.items() if score is not None}


def _first_false(values: np.ndarray) -> int:
    return int(values.argmin()) if not values.all() else -1
