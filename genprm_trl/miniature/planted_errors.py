"""Wrong solutions: one error is planted at a step, everything after it is carried on from the wrong number.

Two sorts of kinds make the ablation of the paper (arXiv 2504.00891, section 5) mean something. `ARITHMETIC` kinds
state a false equation: recomputing it shows them, reading does not. `STRUCTURAL` kinds state a true equation that is
not the one the problem asks for: reading shows them, recomputing the step's own equation does not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from genprm_trl.miniature.word_problems import Equation, Problem, evaluate

_MAX_RESULT = 99999
_TRIES_FOR_A_KIND = 30


def _slip_digit(number: int, rng: random.Random) -> int:
    digits = list(str(number))
    place = rng.randrange(len(digits))
    digits[place] = rng.choice([d for d in "0123456789" if d != digits[place] and (place or d != "0")])
    return int("".join(digits))


def _slip_carry(number: int, rng: random.Random) -> int:
    """A forgotten or surplus carry: off by one in a place above the last."""
    power = 10 ** rng.randint(1, max(1, len(str(number)) - 1))
    return number + rng.choice([-power, power])


def _slip_magnitude(number: int, rng: random.Random) -> int:
    """A zero too many, or a last digit lost."""
    return number * 10 if number < 10 or rng.random() < 0.5 else number // 10


def _swap_digits(number: int, rng: random.Random) -> int:
    digits = list(str(number))
    if len(digits) > 1:
        place = rng.randrange(len(digits) - 1)
        digits[place], digits[place + 1] = digits[place + 1], digits[place]
    return number if digits[0] == "0" else int("".join(digits))


_SLIPS: dict[str, Callable[[int, random.Random], int]] = {
    "digit": _slip_digit,
    "carry": _slip_carry,
    "magnitude": _slip_magnitude,
}
ARITHMETIC = tuple(_SLIPS)
STRUCTURAL = ("operation", "quantity", "lost_result")
ERROR_KINDS = ARITHMETIC + STRUCTURAL


def _compute(left: int, operator: str, right: int) -> Equation | None:
    """The equation with its true result, if that is a positive whole number of a sane size."""
    value = evaluate(left, operator, right)
    if value is None or value.denominator != 1 or not 0 < value <= _MAX_RESULT:
        return None
    return Equation(left, operator, right, int(value))


def _wrong_equation(problem: Problem, index: int, kind: str, rng: random.Random) -> Equation | None:
    """A wrong equation of this kind for step `index`, None if chance gave none that makes sense."""
    right_one = problem.plan[index]
    references = problem.family.plan[index].expression.split()[::2]
    if kind in _SLIPS:
        result = _SLIPS[kind](right_one.result, rng)
        return Equation(right_one.left, right_one.operator, right_one.right, result) if result > 0 else None
    if kind == "operation":
        return _compute(right_one.left, rng.choice([o for o in "+-*/" if o != right_one.operator]), right_one.right)
    operands = [right_one.left, right_one.right]
    source = "q" if kind == "quantity" else "r"
    places = [place for place, reference in enumerate(references) if reference[0] == source]
    if not places:
        return None
    place = rng.choice(places)
    others = [number for number in problem.quantities if number not in operands]
    if kind == "quantity":
        # Another number of the problem, or this one with two digits swapped.
        operands[place] = rng.choice(others) if rng.random() < 0.6 else _swap_digits(operands[place], rng)
    else:
        # A number from before in place of the result that was meant.
        results = [equation.result for equation in problem.plan[:index] if equation.result not in operands]
        operands[place] = rng.choice([*others, *results])
    return _compute(operands[0], right_one.operator, operands[1])


def plant_error(
    problem: Problem, rng: random.Random, kinds: Sequence[str] = ERROR_KINDS
) -> tuple[list[Equation], int, str]:
    """Plants one error at a random step and carries everything after it on.

    Returns:
        The stated equation of each step, the index of the wrong one, and the error's kind.

    Raises:
        ValueError: for an unknown kind.
    """
    unknown = set(kinds) - set(ERROR_KINDS)
    if unknown or not kinds:
        raise ValueError(f"unknown error kinds {sorted(unknown)}; choose from {', '.join(ERROR_KINDS)}")
    while True:
        # Some kinds rarely fit some problems; drawing the kind first keeps the kinds about equally frequent.
        kind = rng.choice(list(kinds))
        for _ in range(_TRIES_FOR_A_KIND):
            label = rng.randrange(len(problem.plan))
            wrong = _wrong_equation(problem, label, kind, rng)
            # A result that is right after all would make no error.
            if wrong is None or wrong.result == problem.plan[label].result:
                continue
            equations = _carry_on(problem, [*problem.plan[:label], wrong])
            if equations is not None:
                return equations, label, kind


def _carry_on(problem: Problem, equations: list[Equation]) -> list[Equation] | None:
    """Completes a solution from the results it has stated; None where a solver would notice that something is off."""
    for operation in problem.family.plan[len(equations) :]:
        left, operator, right = operation.expression.split()
        stated = [equation.result for equation in equations]
        carried = _compute(problem.operand(left, stated), operator, problem.operand(right, stated))
        if carried is None:  # below zero or not whole
            return None
        equations = [*equations, carried]
    return equations
