"""Solutions of the miniature world in ProcessBench's schema, reproducible from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

from genprm_trl.miniature.planted_errors import ERROR_KINDS, plant_error
from genprm_trl.miniature.word_problems import Problem, Split, check_solution, final_answer, gold_steps, random_problem
from genprm_trl.records import Solution


def seeded(*names: object) -> random.Random:
    """A separate random number generator for each use, the same on any machine."""
    return random.Random(" ".join(map(str, names)))


def make_problems(n: int, seed: int = 0, split: Split = "train", small_share: float = 0.0) -> list[Problem]:
    """`n` different problems. Problems of different splits never have family and numbers in common.

    Args:
        n: How many.
        seed: Equal arguments give equal problems, on any machine.
        split: `train` and `heldout` problems are disjoint.
        small_share: Probability in [0, 1] that a problem has small numbers (see `word_problems.random_problem`).
    """
    rng = seeded("problems", split, seed)
    problems: dict[str, Problem] = {}
    while len(problems) < n:
        problem = random_problem(rng, split, small=rng.random() < small_share)
        problems.setdefault(problem.key, problem)
    return list(problems.values())


def make_solutions(
    n: int,
    seed: int = 0,
    split: Split = "train",
    error_share: float = 0.5,
    kinds: Sequence[str] = ERROR_KINDS,
    small_share: float = 0.2,
) -> list[Solution]:
    """`n` solutions of `n` different problems, some with one planted error.

    Args:
        n: How many.
        seed: Equal arguments give equal solutions, on any machine.
        split: `train` and `heldout` problems are disjoint.
        error_share: Probability in [0, 1] that a solution has an error.
        kinds: The kinds of error to draw from.
        small_share: Probability in [0, 1] that a problem has small numbers (see `word_problems.random_problem`).
    """
    rng = seeded("solutions", split, seed)
    solutions = []
    for number, problem in enumerate(make_problems(n, seed, split, small_share)):
        if rng.random() < error_share:
            equations, label, kind = plant_error(problem, rng, kinds)
            steps = [problem.step_text(index, equation, rng) for index, equation in enumerate(equations)]
        else:
            steps, label, kind = gold_steps(problem, rng), -1, None
        solutions.append(_solution(problem, steps, label, kind, f"{split}-{seed}-{number}", "planted"))
    return solutions


def as_solution(problem: Problem, steps: Sequence[str], id: str, generator: str) -> Solution:
    """A solution that someone wrote for a problem, labelled against the problem's plan (see `check_solution`)."""
    label = check_solution(problem, steps)
    return _solution(problem, steps, label, None if label == -1 else "natural", id, generator)


def _solution(
    problem: Problem, steps: Sequence[str], label: int, error_kind: str | None, id: str, generator: str
) -> Solution:
    return Solution(
        id=id,
        problem=problem.text,
        steps=list(steps),
        answer=str(problem.answer),
        final_answer_correct=final_answer(steps) == str(problem.answer),
        label=label,
        generator=generator,
        extra={"error_kind": error_kind, **problem.to_extra()},
    )
