"""Generated arithmetic expressions, worked in steps: each part by itself, then the whole.

The form of the problems and of the steps is that of BIG-Bench's multistep arithmetic. All of them are made here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest

from genprm_trl.smollm2.equations import evaluate
from genprm_trl.smollm2.worked import WorkedSolution, WorkedStep

# In what the wrong turns of generated solutions consist.
PART_ERRORS = ("product", "sum", "sign", "order")
# Some kinds rarely fit; drawing the kind first keeps the kinds about equally frequent.
_TRIES_FOR_A_KIND = 40

_PLAN = ("This equation can be written as \"{form}\", where {parts}.", "Write it as {form} with {parts}.",
         "Let {parts}. Then the expression is {form}.")  # fmt: skip
_PART = ("Let's calculate {letter} = {chain}.", "{letter} = {chain}.", "We work out {letter}: {letter} = {chain}.")
_WHOLE = ("Then, the final equation is {form} = {chain}. So the answer is {answer}",
          "Finally, {form} = {chain}. The answer is {answer}.", "Now {form} = {chain}.")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sum:
    """Numbers with an operator between any two neighbours.

    Attributes:
        numbers: At least one.
        operators: One fewer; each is `+`, `-` or `*`.
    """

    numbers: tuple[int, ...]
    operators: tuple[str, ...] = ()

    def text(self, *, brackets: bool = True, bracketed: int | None = None, product: int | None = None) -> str:
        """The expression as it is written.

        Args:
            brackets: Whether brackets stand around it.
            bracketed: Index of a number that has its own brackets, as a result that was just put in.
            product: Index of the first factor of a product that has its own brackets, as what is computed next.
        """
        shown = [f"({number})" if place == bracketed else str(number) for place, number in enumerate(self.numbers)]
        if product is not None:
            shown[product] = f"({shown[product]}"
            shown[product + 1] += ")"
        text = shown[0] + "".join(f" {sign} {number}" for sign, number in zip(self.operators, shown[1:], strict=True))
        return f"({text})" if brackets else text

    @property
    def value(self) -> int:
        """Its value."""
        value = evaluate(self.text())
        assert isinstance(value, int)
        return value


@dataclass(frozen=True, slots=True)
class Pair:
    """Two expressions with an operator between them, each in its own brackets.

    Attributes:
        left: What stands before the operator.
        operator: `+`, `-` or `*`.
        right: What stands behind it.
    """

    left: Sum | Pair
    operator: str
    right: Sum | Pair

    def text(self) -> str:
        """The pair as it is written, in brackets."""
        return f"({self.left.text()} {self.operator} {self.right.text()})"


def make_expressions(n: int, *, seed: int = 0, error_share: float = 0.75) -> list[WorkedSolution]:
    """Different problems, each with a worked solution.

    Args:
        n: How many.
        seed: Equal arguments give equal solutions.
        error_share: Probability in [0, 1] that a solution has an error.
    """
    rng = random.Random(f"expressions {seed}")
    made: dict[str, WorkedSolution] = {}
    while len(made) < n:
        kind = rng.choice((*PART_ERRORS, "whole")) if rng.random() < error_share else None
        for _ in range(_TRIES_FOR_A_KIND):
            solution = _solution(rng, f"expression-{seed}-{len(made)}", kind)
            if solution is not None:
                made.setdefault(solution.problem, solution)
                break
    return list(made.values())


def _solution(rng: random.Random, id: str, kind: str | None) -> WorkedSolution | None:
    """A problem with its solution; None if chance gave none with an error of this kind."""
    letters = "ABCD"[: rng.choice((2, 2, 4, 4, 3))]
    # What four letters name two by two may have one name instead.
    depth = rng.choice((0, 1, 1, 2)) if len(letters) == 2 else 0
    parts = [_random_part(rng, depth) for _ in letters]
    signs = [rng.choice("+-*") for _ in letters[1:]]
    form, problem = _joined(list(letters), signs), f"{_joined([part.text() for part in parts], signs, outer=True)} ="
    wrong_at = None if kind is None else len(letters) if kind == "whole" else rng.randrange(len(letters))
    named = [f"{letter} = {part.text()}" for letter, part in zip(letters, parts, strict=True)]
    listed = rng.choice((", ".join(named[:-1]) + f", and {named[-1]}", " and ".join(named)))
    steps = [WorkedStep(rng.choice(_PLAN).format(form=form, parts=listed), ())]
    values: list[int] = []
    for place, (letter, part) in enumerate(zip(letters, parts, strict=True)):
        chain = _worked(part, rng, kind if place == wrong_at else None)
        if chain is None:
            return None
        end = evaluate(chain[-1])
        assert isinstance(end, int)
        values.append(end)
        steps.append(WorkedStep(rng.choice(_PART).format(letter=letter, chain=" = ".join(chain)), (tuple(chain),)))
    chain = _whole(values, signs, rng, kind == "whole")
    if chain is None:
        return None
    said = rng.choice(_WHOLE).format(form=form, chain=" = ".join(chain), answer=chain[-1])
    steps.append(WorkedStep(said, (tuple(chain),)))
    truth = evaluate(problem.removesuffix("="))
    label = -1 if wrong_at is None else wrong_at + 1
    return WorkedSolution(id, problem, tuple(steps), str(truth), label, kind, "expressions")


def _random_part(rng: random.Random, depth: int) -> Sum | Pair:
    """A sum, a pair of shorter ones, or a pair of pairs of short ones."""
    return _random_pair(rng, depth, ((2, 2, 3), (2,))[depth - 1]) if depth else _random_sum(rng, (2, 3, 3, 4, 4))


def _random_pair(rng: random.Random, depth: int, lengths: Sequence[int]) -> Pair:
    left, right = (
        _random_sum(rng, lengths) if depth == 1 else _random_pair(rng, depth - 1, lengths) for _ in range(2)
    )
    return Pair(left, rng.choice("+-*"), right)


def _random_sum(rng: random.Random, lengths: Sequence[int]) -> Sum:
    length = rng.choice(lengths)
    numbers = tuple(rng.randint(-9, 9) for _ in range(length))
    return Sum(numbers, tuple(rng.choice("++--**") for _ in numbers[1:]))


def _joined(parts: list[str], signs: list[str], *, outer: bool = False) -> str:
    """Two or three parts in a row, four as two pairs."""
    if len(parts) == 4:
        left, right = f"({parts[0]} {signs[0]} {parts[1]})", f"({parts[2]} {signs[2]} {parts[3]})"
        text = f"{left} {signs[1]} {right}"
    else:
        text = parts[0] + "".join(f" {sign} {part}" for sign, part in zip(signs, parts[1:], strict=True))
    return f"({text})" if outer else text


def _worked(start: Sum | Pair, rng: random.Random, kind: str | None) -> list[str] | None:
    """What a part is set equal to, from what it is to its value. With a kind, one of the turns is wrong."""
    if isinstance(start, Pair):
        return _worked_pair(start, rng, kind)
    return _worked_sum(start, rng, kind, brackets=rng.random() < 0.85)


def _worked_pair(start: Pair, rng: random.Random, kind: str | None) -> list[str] | None:
    """Both sides are worked at the same time, and then put together."""
    sides = []
    wrong = rng.randrange(2)
    for place, side in enumerate((start.left, start.right)):
        its_kind = kind if place == wrong else None
        if isinstance(side, Pair):
            chain = _worked_pair(side, rng, its_kind)
        else:  # without brackets it would not be what stands on this side
            chain = _worked_sum(side, rng, its_kind, brackets=True)
        if chain is None:
            return None
        sides.append(chain)
    left, right = sides
    turns = zip_longest(left, right)
    forms = [f"({one or left[-1]} {start.operator} {other or right[-1]})" for one, other in turns]
    forms.append(str(evaluate(forms[-1])))
    # A wrong turn in a factor of nought changes nothing.
    return forms if (len({evaluate(form) for form in forms}) > 1) == (kind is not None) else None


def _worked_sum(start: Sum, rng: random.Random, kind: str | None, *, brackets: bool) -> list[str] | None:
    forms = [start.text()]
    at, is_wrong = start, False
    if rng.random() < 0.1:
        forms.append(start.text(brackets=brackets))  # written twice, as people and models do
    while at.operators:
        before = at.value
        if "*" in at.operators and len(at.operators) > 1 and rng.random() < 0.3:
            forms.append(at.text(brackets=brackets, product=at.operators.index("*")))
        turned = None
        if kind is not None and not is_wrong:
            turned = _wrong_turn(at, rng, kind)
            is_wrong = turned is not None
        at, place = turned or _turn(at, rng)
        if (at.value != before) != (turned is not None):  # a wrong turn that changes nothing is none
            return None
        if not at.operators:
            break
        if turned is not None or rng.random() < 0.7:  # some turns are not written down
            forms.append(at.text(brackets=brackets, bracketed=place if rng.random() < 0.3 else None))
    if kind is not None and not is_wrong:
        return None
    forms.append(str(at.numbers[0]) if rng.random() < 0.85 else f"({at.numbers[0]})")
    return forms


def _negative_terms(at: Sum) -> list[int]:
    """Places of the signs before a negative number that is no factor."""
    return [
        place
        for place, sign in enumerate(at.operators)
        if sign != "*" and at.numbers[place + 1] < 0 and "*" not in at.operators[place + 1 : place + 2]
    ]


def _turn(at: Sum, rng: random.Random) -> tuple[Sum, int | None]:
    """One right turn: a sign put right, or two neighbours computed."""
    signs = _negative_terms(at)
    if signs and rng.random() < 0.4:
        return _with_sign(at, rng.choice(signs)), None
    products = [place for place, sign in enumerate(at.operators) if sign == "*"]
    place = products[0] if products else 0
    return _computed(at, place, None), place


def _wrong_turn(at: Sum, rng: random.Random, kind: str) -> tuple[Sum, int | None] | None:
    products = [place for place, sign in enumerate(at.operators) if sign == "*"]
    if kind == "product" and products:
        true = at.numbers[products[0]] * at.numbers[products[0] + 1]
        return _computed(at, products[0], rng.choice((-true, _slip(true, rng)))), products[0]
    if kind == "sum" and not products:
        place = 0
        true = _computed(at, place, None).numbers[place]
        return _computed(at, place, rng.choice((-true, _slip(true, rng), _slip(true, rng)))), place
    if kind == "sign":
        places = _negative_terms(at)
        if places:
            place = rng.choice(places)
            numbers = list(at.numbers)
            numbers[place + 1] = -numbers[place + 1]  # the number's sign is lost, and the operator stays
            return replace(at, numbers=tuple(numbers)), None
    if kind == "order":
        places = [place for place, (left, right) in enumerate(pairwise(at.operators)) if left != "*" and right == "*"]
        if places:
            return _computed(at, places[0], None), places[0]
    return None


def _with_sign(at: Sum, place: int) -> Sum:
    """`+ -3` becomes `- 3`, and `- -3` becomes `+ 3`."""
    signs, numbers = list(at.operators), list(at.numbers)
    signs[place] = "-" if signs[place] == "+" else "+"
    numbers[place + 1] = -numbers[place + 1]
    return Sum(tuple(numbers), tuple(signs))


def _computed(at: Sum, place: int, result: int | None) -> Sum:
    """Two neighbours made one number, by default the right one."""
    if result is None:
        left, right = at.numbers[place], at.numbers[place + 1]
        result = {"+": left + right, "-": left - right, "*": left * right}[at.operators[place]]
    numbers = (*at.numbers[:place], result, *at.numbers[place + 2 :])
    return Sum(numbers, at.operators[:place] + at.operators[place + 1 :])


def _whole(values: list[int], signs: list[str], rng: random.Random, is_wrong: bool) -> list[str] | None:
    """The chain of the last step, from the parts' values to the answer; None if chance gave none that is wrong."""
    shown = [f"({value})" if value < 0 and rng.random() < 0.5 else str(value) for value in values]
    forms = [_joined(shown, signs)]
    results = values
    wrong_pair = None
    if len(values) == 4:
        pairs = [Sum((values[0], values[1]), (signs[0],)), Sum((values[2], values[3]), (signs[2],))]
        results, signs = [pair.value for pair in pairs], [signs[1]]
        if is_wrong and rng.random() < 0.5:
            wrong_pair = rng.randrange(2)
            results[wrong_pair] = rng.choice((-results[wrong_pair], _slip(results[wrong_pair], rng)))
        brackets = "({})" if rng.random() < 0.6 else "{}"
        forms.append(_joined([brackets.format(result) for result in results], signs))
    value = Sum(tuple(results), tuple(signs)).value
    if is_wrong and wrong_pair is None:
        value = rng.choice((-value, _slip(value, rng), _slip(value, rng)))
    forms.append(str(value))
    # A slip of nought, or in a factor of nought, is none.
    return forms if (len({evaluate(form) for form in forms}) > 1) == is_wrong else None


def _slip(number: int, rng: random.Random) -> int:
    """Another number that a person may write for this one."""
    choices = [number + 1, number - 1, number + 2, number - 2, number + 10, number - 10]
    if abs(number) > 20:
        choices += [number + 100, number - 100, int(str(number)[:-1] + str((abs(number) + 3) % 10))]
    return rng.choice(choices)
