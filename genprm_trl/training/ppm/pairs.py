"""Pairs of steps from labelled solutions, by the rules of rStar-Math (arXiv 2501.04519, section 3.3).

A node is a problem with the steps up to somewhere. Its children are the steps that solutions go on with. The value of
a child is Q = 2 y - 1, where y is its Monte Carlo estimate, or 1 and 0 for right and wrong where there is none. One
more node of each problem has its whole solutions as children, with Q = 1 or -1 by their outcome.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from genprm_trl.errors import DataError
from genprm_trl.records import Solution
from genprm_trl.rows.fields import as_filled_text, as_object, as_steps, require
from genprm_trl.training.given_rows import read_given
from genprm_trl.training.outcomes import outcome, read_outcomes
from genprm_trl.training.prm.data import estimated_steps, labelled_steps

logger = logging.getLogger(__name__)

ENCODED = frozenset(("chosen_ids", "rejected_ids"))  # the columns of pairs that are encoded


@dataclass(frozen=True, slots=True)
class Child:
    """What a node goes on with.

    Attributes:
        steps: The steps up to and with the child's, or all of a solution.
        q: Its value, in [-1, 1].
        right: Whether it leads to a right answer: whether any of the rollouts after it did, or by its label.
    """

    steps: tuple[str, ...]
    q: float
    right: bool


def chosen_pairs(children: Sequence[Child], margin: float = 0.5, each: int = 2) -> list[tuple[Child, Child]]:
    """The pairs of a node: the right children with the highest Q against the wrong ones with the lowest.

    Args:
        children: The children of the node.
        margin: Pairs whose values differ by less are dropped.
        each: Children to take of each side; twice as many if the other side has one alone.

    Returns:
        The better and the worse child of each pair.
    """
    best = sorted((child for child in children if child.right), key=lambda child: -child.q)
    worst = sorted((child for child in children if not child.right), key=lambda child: child.q)
    some_best = best[: each * (2 if len(worst) == 1 else 1)]
    some_worst = worst[: each * (2 if len(best) == 1 else 1)]
    # Values are shares of a few rollouts: a difference of the margin itself is kept whatever its last digit.
    return [(good, bad) for good in some_best for bad in some_worst if good.q - bad.q >= margin - 1e-9]


def nodes_of(solutions: Iterable[Solution]) -> dict[tuple[str, tuple[str, ...] | None], list[Child]]:
    """The nodes of some solutions, with their children.

    Of the same step after the same steps, the mean of the values counts, and whether it leads to a right answer in any
    of its solutions.

    Args:
        solutions: Solutions with labels or estimates of their steps.

    Returns:
        The children by problem and steps before them. None in place of the steps stands for whole solutions.

    Raises:
        DataError: A solution has no labels.
    """
    found: dict[tuple[str, tuple[str, ...] | None], dict[tuple[str, ...], list[tuple[float, bool]]]] = {}
    for solution in solutions:
        steps, right = tuple(solution.steps), outcome(solution)
        found.setdefault((solution.problem, None), {}).setdefault(steps, []).append((1.0 if right else -1.0, right))
        labels = labelled_steps(solution).labels
        given = estimated_steps(solution).labels if solution.extra.get("mc") is not None else []
        for place, label in enumerate(labels):
            estimate = given[place] if place < len(given) else None
            value = float(label) if estimate is None else estimate
            children = found.setdefault((solution.problem, steps[:place]), {})
            children.setdefault(steps[: place + 1], []).append((2 * value - 1, value > 0))
    return {
        node: [
            Child(steps, sum(q for q, _ in values) / len(values), any(right for _, right in values))
            for steps, values in children.items()
        ]
        for node, children in found.items()
    }


def load_pairs(source: Any, *, margin: float = 0.5, **reading: Any) -> Dataset:
    """Reads a file of solutions with step labels, and makes pairs of their steps; errors name the file and its row.

    Args:
        source: A source that `load_solutions` takes, or one of rationale records.
        margin: As in `chosen_pairs`.
        **reading: Arguments of `outcomes.read_outcomes`.

    Returns:
        A dataset with the columns `problem`, `chosen` and `rejected`: lists of steps. Every pair is there once, and
        none that is there the other way round, too.

    Raises:
        DataError: The source is unreadable, a row is bad, or there is no pair.
        ConfigError: An argument of the reading cannot be used.
    """
    solutions = [*read_outcomes(source, check=_check, **reading)]
    found: dict[tuple[str, tuple[str, ...], tuple[str, ...]], None] = {}
    for (problem, _), children in nodes_of(solutions).items():
        found |= dict.fromkeys((problem, good.steps, bad.steps) for good, bad in chosen_pairs(children, margin))
    # The last steps of two solutions may say one thing, and their outcomes the other.
    pairs = [pair for pair in found if (pair[0], pair[2], pair[1]) not in found]
    if len(pairs) < len(found):
        logger.warning("%d pairs left out: steps and outcomes contradict each other", len(found) - len(pairs))
    if not pairs:
        raise DataError(
            "has no pair: steps are compared where several solutions of a problem begin alike, or as whole solutions, "
            f"and their values must differ by {margin:g}",
            file=str(source),
        )
    return Dataset.from_list(
        [{"problem": problem, "chosen": list(good), "rejected": list(bad)} for problem, good, bad in pairs]
    )


def as_rows(rows: Any, name: str) -> Dataset:
    """Pairs of steps as a dataset.

    Args:
        rows: A dataset with the columns `problem`, `chosen` and `rejected` (`load_pairs` makes one), or a list of such
            rows. Rows that are encoded already stay as they are.
        name: What errors call it.

    Raises:
        DataError: A row is unusable, or there are none. Names it.
    """
    return read_given(rows, name, _row, ENCODED)


def _row(row: Any, default_id: str) -> Mapping[str, Any]:
    row = as_object(row, None)
    sides = {side: as_steps(require(row, side), side) for side in ("chosen", "rejected")}
    return {"problem": as_filled_text(require(row, "problem"), "problem"), **sides}


def _check(solution: Solution) -> None:
    """Reads what values are made of, so that a bad row shows while it is read."""
    labelled_steps(solution)
    if solution.extra.get("mc") is not None:
        estimated_steps(solution)
