"""Pessimistic verification: the answer that is sure to be good, rather than the one that looks best. Pure functions.

Heimdall (Shi & Jin 2025, arXiv 2504.10337) takes the answers to a problem for the arms of a bandit. N solutions are
sampled and each is verified M times. An answer a that N_a of them reach has N_a * M verifications with the mean r(a).
The chosen answer is

    argmax_a  r(a) - alpha * ln(N * M) / (N_a * M + 1)

The penalty lowers a mean that is high by luck because it has few verifications. With alpha = 0 the best mean wins.
Candidates and verifications are one budget: N * M verifications can be spent on more of either.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np

from genprm_trl.selection.accuracies import class_members, class_worth, subsets

HashableT = TypeVar("HashableT", bound=Hashable)

# Ours: with 4 candidates verified once, an answer that two of them reach gains 0.02 over one that a single one does.
ALPHA = 0.1


def pessimistic_values(
    answers: Sequence[HashableT | None], verifications: Sequence[Sequence[float]], alpha: float = ALPHA
) -> dict[HashableT, float]:
    """The pessimistic value of each answer, in the order of first appearance.

    Args:
        answers: The answer of each candidate; equivalent ones must be equal. None is no answer. Shape (N,).
        verifications: The scores of each candidate's verifications, at least one. Shape (N, M); M may differ, and the
            numbers of the formula are then counted.
        alpha: Weight of the penalty, at least 0.

    Raises:
        ValueError: The lengths differ, a candidate has no verification, or alpha is negative.

    Examples:
        >>> values = pessimistic_values(["4", "5", "5"], [[0.8], [0.75], [0.78]], alpha=0.5)
        >>> max(values, key=values.get)  # 5 is a little worse on the average, and twice as well known
        '5'
    """
    if len(answers) != len(verifications):
        raise ValueError(f"the verifications of {len(verifications)} candidates for {len(answers)} answers")
    if not all(len(scores) for scores in verifications):
        raise ValueError("a candidate has no verification")
    if not alpha >= 0:
        raise ValueError(f"alpha must be at least 0, not {alpha}")
    by_answer: dict[HashableT, list[float]] = {}
    for answer, scores in zip(answers, verifications, strict=True):
        if answer is not None:
            by_answer.setdefault(answer, []).extend(scores)
    total = sum(map(len, verifications))
    return {
        answer: math.fsum(scores) / len(scores) - alpha * math.log(total) / (len(scores) + 1)
        for answer, scores in by_answer.items()
    }


def pessimistic_accuracy(
    answers: Sequence[Hashable | None],
    correct: Sequence[bool],
    scores: Sequence[float],
    n: int,
    *,
    verifications: int = 1,
    alpha: float = ALPHA,
    max_subsets: int = 2048,
    seed: int = 0,
) -> float:
    """The expected accuracy of pessimistic verification with n candidates, over the subsets of a pool.

    As `selection.vote_accuracy`: exact where there are few subsets, over drawn ones otherwise, tied answers win with
    equal chance, and a subset without any answer is wrong.

    Args:
        answers: The answer of each candidate; None for no answer. Shape (M,).
        correct: Whether each candidate is right. Shape (M,).
        scores: The mean of each candidate's verifications. Shape (M,).
        n: The size of the subsets, from 1 to M.
        verifications: How many each mean is of.
        alpha: Weight of the penalty, at least 0.
        max_subsets: If there are more subsets, this many are drawn.
        seed: Seed for drawing subsets.

    Returns:
        The expectation in [0, 1].

    Raises:
        ValueError: The lengths differ, n is out of range, `verifications` is below 1, or alpha is negative.
    """
    size = len(answers)
    if not len(correct) == len(scores) == size:
        raise ValueError(f"{size} answers, {len(correct)} outcomes and {len(scores)} scores")
    if not 1 <= n <= size:
        raise ValueError(f"n must be from 1 to the pool's size {size}, not {n}")
    if verifications < 1 or not alpha >= 0:
        raise ValueError(f"need verifications >= 1 and alpha >= 0: {verifications=}, {alpha=}")
    members = class_members(answers)
    if not members.size:
        return 0.0
    drawn = subsets(size, n, max_subsets, seed)
    count = members[drawn].sum(axis=1)
    total = (members * np.asarray(scores, dtype=float)[:, None])[drawn].sum(axis=1)
    penalty = alpha * math.log(n * verifications) / (count * verifications + 1)
    values = np.where(count > 0, total / np.maximum(count, 1) - penalty, -np.inf)
    # Means of the same scores differ in their last digits by the order they are added in.
    best = (values >= values.max(axis=1, keepdims=True) - 1e-12) & (count > 0)
    return float(((best * class_worth(members, correct)).sum(axis=1) / np.maximum(best.sum(axis=1), 1)).mean())
