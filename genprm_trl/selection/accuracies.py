"""Choosing among a problem's sampled solutions, and what each way of choosing is worth at N. Pure functions.

A pool holds the solutions sampled for one problem. The accuracies here are expectations over all subsets of N of a
pool. A pool of 64 therefore gives Best-of-8 without the luck of which 8. They are exact where there is a closed form
or there are few subsets; otherwise they average over drawn subsets. Both are unbiased.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from genprm_trl.selection.aggregates import RULES, aggregate


def subset_sizes(pool_size: int) -> list[int]:
    """The powers of two up to a pool's size, and the size itself.

    Examples:
        >>> subset_sizes(6)
        [1, 2, 4, 6]
    """
    if pool_size < 1:
        raise ValueError(f"a pool has at least one solution, not {pool_size}")
    return [*(2**k for k in range((pool_size - 1).bit_length())), pool_size]


def best_of_n_accuracy(scores: Sequence[float], correct: Sequence[bool], n: int) -> float:
    """The expected accuracy of taking the highest-scored of n solutions, over all subsets of size n of a pool.

    Exact and without bias, in place of an average over drawn subsets. Among tied solutions each is taken with equal
    chance.

    Args:
        scores: The scores of one problem's pool of solutions. Shape (M,).
        correct: Whether each solution is right. Shape (M,).
        n: The size of the subsets, from 1 to M.

    Returns:
        The expectation in [0, 1]. For a set of problems take the mean.

    Raises:
        ValueError: The lengths differ, n is out of range, or a score is NaN.

    Examples:
        >>> best_of_n_accuracy([0.9, 0.5, 0.1], [True, False, True], 2)  # two of the three pairs hold the first
        0.6666666666666666
    """
    if len(scores) != len(correct):
        raise ValueError(f"{len(scores)} scores for {len(correct)} outcomes")
    if not 1 <= n <= len(scores):
        raise ValueError(f"n must be from 1 to the pool's size {len(scores)}, not {n}")
    if any(math.isnan(score) for score in scores):
        raise ValueError("a score is NaN")
    groups: dict[float, list[bool]] = {}
    for score, outcome in zip(scores, correct, strict=True):
        groups.setdefault(float(score), []).append(bool(outcome))
    total = math.comb(len(scores), n)
    expected, below = 0.0, 0
    for score in sorted(groups):
        group = groups[score]
        # Subsets whose highest score is this one: all from here down, less those that lie wholly below.
        led = math.comb(below + len(group), n) - math.comb(below, n)
        expected += led / total * (sum(group) / len(group))
        below += len(group)
    return expected


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The chance that one of k solutions is right, estimated without bias (Chen et al. 2021, arXiv 2107.03374).

    Args:
        num_samples: Solutions sampled for the problem.
        num_correct: How many of them are right.
        k: Number of solutions, from 1 to `num_samples`.
    """
    if not 0 <= num_correct <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(f"need 0 <= correct <= samples and 1 <= k <= samples: {num_correct=}, {num_samples=}, {k=}")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def vote_accuracy(
    answers: Sequence[Hashable | None],
    correct: Sequence[bool],
    n: int,
    weights: Sequence[float] | None = None,
    *,
    max_subsets: int = 2048,
    seed: int = 0,
) -> float:
    """The expected accuracy of the vote of n solutions (self-consistency; Wang et al. 2022, arXiv 2203.11171).

    The mean over all subsets of size n of a pool, or over `max_subsets` drawn ones where there are more: without bias
    in either case. Answers that are tied win in proportion to their votes: in a random order of the solutions, that is
    how often each of them comes first. Without weights, tied answers win with equal chance.

    Args:
        answers: The answer of each solution of one problem's pool; equivalent answers must be equal. None does not
            vote; a subset in which nobody votes is wrong. Shape (M,).
        correct: Whether each solution is right. Shape (M,).
        n: The size of the subsets, from 1 to M.
        weights: The weight of each vote, at least 0, for example the verifier's score. Default: 1 each.
        max_subsets: If there are more subsets, this many are drawn.
        seed: Seed for drawing subsets.

    Returns:
        The expectation in [0, 1].

    Raises:
        ValueError: The lengths differ, n is out of range, or a weight is negative or NaN.

    Examples:
        >>> vote_accuracy(["4", "5", "5"], [False, True, True], 2)  # of three pairs two are a tie
        0.6666666666666666
    """
    size = len(answers)
    if len(correct) != size or (weights is not None and len(weights) != size):
        raise ValueError(
            f"{size} answers, {len(correct)} outcomes and {size if weights is None else len(weights)} weights"
        )
    if not 1 <= n <= size:
        raise ValueError(f"n must be from 1 to the pool's size {size}, not {n}")
    weight = np.ones(size) if weights is None else np.asarray(weights, dtype=float)
    if not (weight >= 0).all():  # NaN as well
        raise ValueError("the weights must be at least 0")
    members = class_members(answers)
    if not members.size:
        return 0.0
    votes, worth = members * weight[:, None], class_worth(members, correct)
    drawn = subsets(size, n, max_subsets, seed)
    totals, count = votes[drawn].sum(axis=1), members[drawn].sum(axis=1)
    totals = np.where(count > 0, totals, -np.inf)
    best = totals.max(axis=1, keepdims=True)
    # Sums of the same weights differ in their last digits by the order they are added in.
    chance = np.where(totals >= best - 1e-12 * np.maximum(np.abs(best), 1), count, 0)
    return float(((chance * worth).sum(axis=1) / np.maximum(chance.sum(axis=1), 1)).mean())


def class_members(answers: Sequence[Hashable | None]) -> np.ndarray:
    """Which solution has which answer: 1 or 0, with a column for each different answer. Shape (M, answers)."""
    classes = {answer: index for index, answer in enumerate(dict.fromkeys(a for a in answers if a is not None))}
    members = np.zeros((len(answers), len(classes)))
    for index, answer in enumerate(answers):
        if answer is not None:
            members[index, classes[answer]] = 1
    return members


def class_worth(members: np.ndarray, correct: Sequence[bool]) -> np.ndarray:
    """What each answer is worth: 1 if it is right. Shape (answers,).

    A grader that is not transitive may call only some solutions of an answer right.
    """
    return np.asarray((members * np.asarray(correct, dtype=float)[:, None]).sum(axis=0) / members.sum(axis=0))


def subsets(size: int, n: int, limit: int, seed: int) -> np.ndarray:
    """Index sets of n out of `size`: all if there are no more than the limit, else so many drawn. Shape (S, n)."""
    if math.comb(size, n) <= limit:
        return np.array(list(itertools.combinations(range(size), n)))
    return np.random.default_rng(seed).random((limit, size)).argpartition(n - 1, axis=1)[:, :n]


def pool_accuracies(
    answers: Sequence[Hashable | None],
    correct: Sequence[bool],
    rewards: Sequence[Sequence[float]],
    sizes: Sequence[int],
    *,
    scores: Mapping[str, Sequence[float]] = MappingProxyType({}),
    seed: int = 0,
) -> dict[str, float]:
    """What every way of choosing is worth on one problem's pool.

    Args:
        answers: The answer of each solution; None for no answer. Shape (M,).
        correct: Whether each solution is right. Shape (M,).
        rewards: The step rewards of each solution, at least one. Shape (M, steps).
        sizes: The N to report, each from 1 to M.
        scores: Further scores of the solutions, by the name of their rule. Shape (M,).
        seed: Seed for drawing subsets of votes.

    Returns:
        Expectations in [0, 1]: `random`; and for each N `best_RULE@N` (the highest score) and `weighted_RULE@N` (the
        vote weighted by the score) for each rule of `aggregates`, `majority@N`, and `pass@N`, which no choice exceeds.

    Raises:
        ValueError: The lengths differ, or an N is out of range.
    """
    size = len(answers)
    if not len(correct) == len(rewards) == size:
        raise ValueError(f"{size} answers, {len(correct)} outcomes and {len(rewards)} solutions' rewards")
    by_rule = {rule: [aggregate(row, rule) for row in rewards] for rule in RULES} | dict(scores)
    right = sum(map(bool, correct))
    values = {"random": right / size}
    for n in sizes:
        for rule, score in by_rule.items():
            values[f"best_{rule}@{n}"] = best_of_n_accuracy(score, correct, n)
        for rule, score in by_rule.items():
            values[f"weighted_{rule}@{n}"] = vote_accuracy(answers, correct, n, score, seed=seed)
        values[f"majority@{n}"] = vote_accuracy(answers, correct, n, seed=seed)
        values[f"pass@{n}"] = pass_at_k(size, right, n)
    return values
