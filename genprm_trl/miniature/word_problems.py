"""Word problems with their gold plans, drawn at random from the families; and the judge of what a step says."""

from __future__ import annotations

import hashlib
import random
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from typing import Any, Literal

from genprm_trl.errors import DataError
from genprm_trl.miniature.families import FAMILIES, NAMES, Family

Split = Literal["train", "heldout"]

_FAMILIES = {family.name: family for family in FAMILIES}
_MAX_RESULT = 9999
_HELDOUT_SHARE = 10  # one problem in this many is held out
_SMALL_FACTOR, _SMALL_AMOUNT, _SMALL_TOTAL = (2, 9), (2, 60), (60, 400)
_EQUATION = re.compile(r"(?<![\d.])(\d{1,12}) ([-+*/]) (\d{1,12}) = (\d{1,12})(?![\d])(?!\.\d)")
_BOXED = re.compile(r"\\boxed\{([^}]*)\}")


@dataclass(frozen=True, slots=True)
class Equation:
    """An equation between whole numbers as a step states it, true or not."""

    left: int
    operator: str
    right: int
    result: int

    @property
    def expression(self) -> str:
        """The left-hand side, such as `3 * 4`."""
        return f"{self.left} {self.operator} {self.right}"

    @property
    def text(self) -> str:
        """The whole equation, such as `3 * 4 = 12`."""
        return f"{self.expression} = {self.result}"

    @property
    def holds(self) -> bool:
        """Whether the stated result is what the expression gives."""
        return evaluate(self.left, self.operator, self.right) == self.result

    def same_expression(self, other: Equation) -> bool:
        """Whether both compute the same thing from the same numbers; factors and summands may be swapped."""
        mine, others = (self.left, self.right), (other.left, other.right)
        commutes = self.operator in "+*"
        return self.operator == other.operator and (mine == others or (commutes and mine == others[::-1]))


def evaluate(left: int, operator: str, right: int) -> Fraction | None:
    """The exact value, None for a division by zero."""
    match operator:
        case "+":
            return Fraction(left + right)
        case "-":
            return Fraction(left - right)
        case "*":
            return Fraction(left * right)
        case "/":
            return Fraction(left, right) if right else None
    raise ValueError(f"unknown operator {operator!r}")


def read_equation(step: str) -> Equation | None:
    """The last equation `a + b = c` that a step states, None if it states none."""
    found = _EQUATION.findall(step)
    if not found:
        return None
    left, operator, right, result = found[-1]
    return Equation(int(left), operator, int(right), int(result))


@dataclass(frozen=True)
class Problem:
    """A word problem with its gold plan.

    Attributes:
        family: The family it is from.
        quantities: The problem's numbers, `q0, q1, …` of the plan.
        telling: Which of the family's texts tells it.
        words: The word for each word field.
    """

    family: Family
    quantities: tuple[int, ...]
    telling: int
    words: Mapping[str, str]

    @cached_property
    def text(self) -> str:
        """The problem as it is told."""
        numbers = {f"q{i}": quantity for i, quantity in enumerate(self.quantities)}
        return self.family.texts[self.telling].format(**numbers, **self.words)

    @cached_property
    def plan(self) -> tuple[Equation, ...]:
        """The true equation of each step."""
        equations: list[Equation] = []
        for operation in self.family.plan:
            left, operator, right = operation.expression.split()
            results = [equation.result for equation in equations]
            a, b = self.operand(left, results), self.operand(right, results)
            value = evaluate(a, operator, b)
            if value is None or value.denominator != 1:
                raise ValueError(f"the plan of {self.family.name} gives no whole number with {self.quantities}")
            equations.append(Equation(a, operator, b, int(value)))
        return tuple(equations)

    @property
    def answer(self) -> int:
        """The result of the plan's last step."""
        return self.plan[-1].result

    @property
    def key(self) -> str:
        """Names the mathematical content: equal for two tellings of the same family with the same numbers."""
        return f"{self.family.name}-{'-'.join(map(str, self.quantities))}"

    @property
    def split(self) -> Split:
        """The split of the problem. It does not depend on the seed, so the splits are disjoint."""
        digest = hashlib.sha256(self.key.encode()).digest()
        return "heldout" if digest[0] % _HELDOUT_SHARE == 0 else "train"

    def operand(self, reference: str, results: Sequence[int]) -> int:
        """The number behind `q3` (a quantity of the problem) or `r0` (one of the given results)."""
        index = int(reference[1:])
        return self.quantities[index] if reference[0] == "q" else results[index]

    def step_text(self, index: int, equation: Equation, rng: random.Random) -> str:
        """A step that states `equation`, in one of the wordings of step `index` (from 0)."""
        sentence = rng.choice(self.family.plan[index].texts).format(
            eq=equation.text, x=equation.left, y=equation.right, **self.words
        )
        if index == len(self.family.plan) - 1:
            sentence += f" The answer is \\boxed{{{equation.result}}}."
        return f"Step {index + 1}: {sentence}"

    def purpose(self, index: int) -> str:
        """What step `index` (from 0) should find out, in words."""
        return self.family.plan[index].purpose.format(**self.words)

    def to_extra(self) -> dict[str, Any]:
        """What `from_extra` needs to rebuild the problem; goes into `Solution.extra`."""
        return {
            "family": self.family.name,
            "quantities": list(self.quantities),
            "telling": self.telling,
            "words": dict(self.words),
        }

    @classmethod
    def from_text(cls, text: str) -> Problem | None:
        """The problem that a text tells; None if it is not one of this world.

        A word that the text does not mention is the first of its choices.
        """
        for family in FAMILIES:
            for telling, pattern in enumerate(_tellings(family.name)):
                found = pattern.fullmatch(text.strip())
                if found is not None:
                    groups = found.groupdict()
                    quantities = tuple(int(groups.pop(f"q{index}")) for index in range(len(family.ranges)))
                    words = {"name": NAMES[0], **{field: choices[0] for field, choices in family.words.items()}}
                    return cls(family, quantities, telling, words | groups)
        return None

    @classmethod
    def from_extra(cls, extra: Mapping[str, Any]) -> Problem:
        """Rebuilds the problem of a solution from its `extra` fields.

        Raises:
            DataError: if the fields are missing or name an unknown family.
        """
        try:
            family = _FAMILIES[extra["family"]]
            quantities = tuple(int(quantity) for quantity in extra["quantities"])
            if len(quantities) != len(family.ranges):
                raise ValueError(f"{family.name} has {len(family.ranges)} quantities, not {len(quantities)}")
            return cls(family, quantities, int(extra["telling"]), dict(extra["words"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a problem of the miniature world ({error!r})", field="extra") from error


@cache
def _tellings(name: str) -> tuple[re.Pattern[str], ...]:
    """Returns for each telling of a family an expression that reads its numbers and words back."""
    family = _FAMILIES[name]
    patterns = []
    for text in family.texts:
        seen: set[str] = set()
        parts = []
        for literal, field, _, _ in string.Formatter().parse(text):
            parts.append(re.escape(literal))
            if field is None:
                continue
            if field in seen:
                parts.append(f"(?P={field})")
            else:
                seen.add(field)
                choices = NAMES if field == "name" else family.words.get(field, ())
                parts.append(f"(?P<{field}>{'|'.join(choices) if choices else '[0-9]{1,9}'})")
        patterns.append(re.compile("".join(parts)))
    return tuple(patterns)


def _small_ranges(family: Family) -> tuple[tuple[int, int], ...]:
    """Ranges of small quantities: what is multiplied is a digit, what others are taken from is larger."""
    ranges = [_SMALL_AMOUNT] * len(family.ranges)
    for operation in family.plan:
        left, operator, right = operation.expression.split()
        for reference in (left, right):
            if reference[0] == "q" and operator in "*/":
                ranges[int(reference[1:])] = _SMALL_FACTOR
        if left[0] == "q" and operator == "-":
            ranges[int(left[1:])] = _SMALL_TOTAL
    return tuple(ranges)


def random_problem(rng: random.Random, split: Split = "train", small: bool = False) -> Problem:
    """Draws a problem of a split. All its quantities and results are different positive whole numbers up to 9999.

    That they differ makes every planted error a real one: no wrong number can stand for the right one by chance.

    Args:
        rng: Draws everything.
        split: The split that the problem shall belong to.
        small: Quantities so small that a tiny policy can learn to compute with them. Otherwise products of two
            numbers of two digits are beyond what it can do in its head.
    """
    family = rng.choice(FAMILIES)
    ranges = _small_ranges(family) if small else family.ranges
    while True:
        words = {field: rng.choice(choices) for field, choices in family.words.items()}
        problem = Problem(
            family=family,
            quantities=tuple(rng.randint(low, high) for low, high in ranges),
            telling=rng.randrange(len(family.texts)),
            words={"name": rng.choice(NAMES), **words},
        )
        try:
            numbers = [*problem.quantities, *(equation.result for equation in problem.plan)]
        except ValueError:  # a division that leaves a rest
            continue
        distinct = len(set(numbers)) == len(numbers)
        if distinct and min(numbers) > 0 and max(numbers) <= _MAX_RESULT and problem.split == split:
            return problem


def gold_steps(problem: Problem, rng: random.Random) -> list[str]:
    """A right solution, in wordings drawn at random."""
    return [problem.step_text(index, equation, rng) for index, equation in enumerate(problem.plan)]


def check_solution(problem: Problem, steps: Sequence[str]) -> int:
    """Judges any solution text against the plan.

    Step k is right if the last equation it states is the k-th of the plan, where factors and summands may be swapped,
    and if a boxed answer in it is that equation's result. A step without an equation is wrong, and so is a step beyond
    the plan's end. A solution that stops early has no wrong step for that.

    Returns:
        Index from 0 of the first wrong step, -1 for none: ProcessBench's label.
    """
    for index, step in enumerate(steps):
        if index >= len(problem.plan):
            return index
        equation, expected = read_equation(step), problem.plan[index]
        if equation is None or not equation.same_expression(expected) or equation.result != expected.result:
            return index
        if any(boxed.strip() != str(expected.result) for boxed in _BOXED.findall(step)):
            return index
    return -1


def final_answer(steps: Sequence[str]) -> str | None:
    """The last boxed answer of a solution, None if there is none."""
    boxed = _BOXED.findall("\n".join(steps))
    return boxed[-1].strip() if boxed else None
