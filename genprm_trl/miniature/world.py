"""Solutions of the miniature world in ProcessBench's schema, reproducible from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

from genprm_trl.miniature.errors import ERROR_KINDS, plant_error
from genprm_trl.miniature.problems import Problem, Split, check_solution, final_answer, gold_steps, random_problem
from genprm_trl.records import Solution


def make_problems(n: int, seed: int = 0, split: Split = "train") -> list[Problem]:
    """`n` different problems. Problems of different splits never have family and numbers in common."""
    rng = random.Random(f"miniature problems {split} {seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < n:
        problem = random_problem(rng, split)
        problems.setdefault(problem.key, problem)
    return list(problems.values())


def make_solutions(
    n: int,
    seed: int = 0,
    split: Split = "train",
    error_share: float = 0.5,
    kinds: Sequence[str] = ERROR_KINDS,
) -> list[Solution]:
    """`n` solutions of `n` different problems, some with one planted error.

    Args:
        n: How many.
        seed: Equal arguments give equal solutions, on any machine.
        split: `train` and `heldout` problems are disjoint.
        error_share: Probability in [0, 1] that a solution has an error.
        kinds: The kinds of error to draw from.
    """
    rng = random.Random(f"miniature solutions {split} {seed}")
    solutions = []
    for number, problem in enumerate(make_problems(n, seed, split)):
        if rng.random() < error_share:
            equations, label, kind = plant_error(problem, rng, kinds)
            steps = [problem.step_text(index, equation, rng) for index, equation in enumerate(equations)]
        else:
            steps, label, kind = gold_steps(problem, rng), -1, None
        solutions.append(
            Solution(
                id=f"{split}-{seed}-{number}",
                problem=problem.text,
                steps=steps,
                answer=str(problem.answer),
                final_answer_correct=final_answer(steps) == str(problem.answer),
                label=label,
                generator="planted",
                extra={"error_kind": kind, **problem.to_extra()},
            )
        )
    return solutions


def as_solution(problem: Problem, steps: Sequence[str], id: str, generator: str) -> Solution:
    """A solution that someone wrote for a problem, labelled against the problem's plan (see `check_solution`)."""
    label = check_solution(problem, steps)
    return Solution(
        id=id,
        problem=problem.text,
        steps=list(steps),
        answer=str(problem.answer),
        final_answer_correct=final_answer(steps) == str(problem.answer),
        label=label,
        generator=generator,
        extra={"error_kind": None if label == -1 else "natural", **problem.to_extra()},
    )
