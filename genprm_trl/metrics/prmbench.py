"""PRMBench's scores (Song et al. 2025, arXiv 2501.03124), as its repository computes them. Pure functions.

Every step counts as one of four: TP is a right step that is judged right, FP a wrong step judged right, TN a wrong
step judged wrong, FN a right step judged wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

SUBJECTS = {
    "simplicity": ("redundency", "circular"),
    "soundness": ("counterfactual", "step_contradiction", "domain_inconsistency", "confidence"),
    "sensitivity": ("missing_condition", "deception", "multi_solutions"),
}
CLASSES = tuple(name for classes in SUBJECTS.values() for name in classes)

# A class of solutions without errors.
ERROR_FREE = "multi_solutions"
# The class of the original solutions, which are in no total.
ORIGINAL = "correct"
# What the repository puts for a share of nothing.
UNDEFINED = -1.0


def count_steps(error_steps: Sequence[int], judged: Sequence[bool | None]) -> tuple[int, int, int, int]:
    """TP, FP, TN and FN of one solution.

    Args:
        error_steps: The wrong steps, counted from 1. Those that the solution does not have are passed over.
        judged: Whether each step is judged right; None, no judgement, counts as the wrong one. Shape (T,).
    """
    counts = [0, 0, 0, 0]
    wrong_steps = set(error_steps)
    for number, is_right in enumerate(judged, start=1):
        wrong = number in wrong_steps
        hit = is_right is not None and is_right != wrong
        counts[(2 if hit else 1) if wrong else (0 if hit else 3)] += 1
    return counts[0], counts[1], counts[2], counts[3]


def finds_first_error(error_steps: Sequence[int], judged: Sequence[bool | None]) -> bool | None:
    """Whether the first wrong step is judged wrong; None if there is no such step in the solution.

    The first is the smallest number that the row names, whether or not the solution has such a step.
    """
    first = min(error_steps, default=0)
    return judged[first - 1] is False if 1 <= first <= len(judged) else None


def step_scores(tp: float, fp: float, tn: float, fn: float) -> dict[str, float]:
    """Shares of the counted steps in [0, 1], and `UNDEFINED` where there are none to share.

    Returns:
        `precision`, `recall` and `f1` of right steps, and `negative_precision`, `negative_recall` and `negative_f1` of
        wrong ones. An undefined share goes into the harmonic mean as it is, as it does in the repository.

    Examples:
        >>> step_scores(3, 1, 1, 0)["f1"]
        0.8571428571428571
        >>> step_scores(3, 0, 0, 0)["negative_f1"]
        -1.0
    """
    precision, recall, f1 = _harmonic(tp, fp, fn)
    negative_precision, negative_recall, negative_f1 = _harmonic(tn, fn, fp)
    return {
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "negative_precision": negative_precision,
        "negative_recall": negative_recall,
        "negative_f1": negative_f1,
    }


def _harmonic(hits: float, false: float, missed: float) -> tuple[float, float, float]:
    precision = hits / (hits + false) if hits + false else UNDEFINED
    recall = hits / (hits + missed) if hits + missed else UNDEFINED
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else UNDEFINED


def prm_score(tp: float, fp: float, tn: float, fn: float, *, error_free: bool = False) -> float:
    """PRMScore in [0, 1]: the mean of F1 and negative F1; F1 alone where no step is wrong.

    Args:
        tp: Right steps judged right.
        fp: Wrong steps judged right.
        tn: Wrong steps judged wrong.
        fn: Right steps judged wrong.
        error_free: Whether the counts are of the class without errors.

    Examples:
        >>> prm_score(2, 1, 1, 0)
        0.7333333333333334
    """
    scores = step_scores(tp, fp, tn, fn)
    score = scores["f1"] if error_free else 0.5 * scores["f1"] + 0.5 * scores["negative_f1"]
    return max(0.0, score)
