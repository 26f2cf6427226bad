r"""Worked solutions from GSM8K's own annotations, some with a planted error, written plainly or in LaTeX.

A line of GSM8K's solutions says what it computes: `Natalia sold 48/2 = <<48/2=24>>24 clips in May.` The annotation
gives the equation that the step states. An error is planted by another result, and the lines after it go on from that.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genprm_trl.data.formats import to_solutions
from genprm_trl.smollm2.equations import TOLERANCE, evaluate
from genprm_trl.smollm2.worked import WorkedSolution, WorkedStep

ERROR_KINDS = ("digit", "off", "magnitude", "operation")

_ANNOTATION = re.compile(r"<<([^<>=]+)=([^<>=]+)>>\s*(\$?)([\d,]*\.?\d+)?")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
# What may stand before an annotation: the expression as people write it, and an equals sign.
_WRITTEN = re.compile(r"((?:[$\d.,()+*/xX×÷%-]|\s)*[-+*/xX×÷](?:[$\d.,()+*/xX×÷%-]|\s)*)=\s*\$?\s*$")
_OPENINGS = (
    "Let's break this down step by step.",
    "To solve this problem, we will work through it step by step.",
    "We need to find what the question asks for.",
    "First, let's see what is known.",
    r"Let \(x\) be the number that we look for.",
)
_CLOSINGS = (
    r"Therefore, the answer is \(\boxed{{{}}}\).",
    "So the answer is {}.",
    r"The answer is \boxed{{{}}}.",
    "Therefore, the final answer is {}.",
    r"Thus, \(x = {}\).",
    r"Therefore, \[ x = {} \]",
)
_ORDINALS = ("Next, ", "Then, ", "Now, ")
_BARE = re.compile(r"(?:He|She|They|It|The|In|On|There|Each|This) ")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a line: text, or an equation with the result that the text states.

    Attributes:
        text: The text before.
        left: The expression, in Python; None in the last piece of a line, which is text alone.
        result: The stated result.
        dollar: Whether a dollar sign stands before it.
    """

    text: str
    left: str | None = None
    result: str = ""
    dollar: bool = False


def make_gsm8k_solutions(
    rows: Iterable[Mapping[str, Any]], n: int, *, seed: int = 0, error_share: float = 0.6
) -> list[WorkedSolution]:
    """Solutions of `n` different problems, or of as many as have usable annotations.

    Args:
        rows: Rows of GSM8K, such as those of its training set.
        n: How many.
        seed: Equal arguments give equal solutions.
        error_share: Probability in [0, 1] that a solution has an error.

    Raises:
        DataError: A row is not one of GSM8K.
    """
    rng = random.Random(f"gsm8k {seed}")
    rows = list(rows)
    made: list[WorkedSolution] = []
    for number in rng.sample(range(len(rows)), len(rows)):
        if len(made) == n:
            break
        kind = rng.choice(ERROR_KINDS) if rng.random() < error_share else None
        solution = work_out(rows[number], f"gsm8k-{number + 1}", kind, rng)
        if solution is not None:
            made.append(solution)
    return made


def work_out(row: Mapping[str, Any], id: str, kind: str | None, rng: random.Random) -> WorkedSolution | None:
    """A worked solution of a row's problem; None if its annotations are not usable, or no error of the kind fits.

    Args:
        row: A row of GSM8K.
        id: The solution's id.
        kind: A name in `ERROR_KINDS`; None for a right solution.
        rng: Chooses the place of the error, and how steps are written.

    Raises:
        DataError: The row is not one of GSM8K.
    """
    [reference] = to_solutions(row, id, "gsm8k")
    body = str(row["answer"]).rpartition("####")[0]
    lines = [_pieces(line) for line in body.splitlines() if line.strip()]
    read = [line for line in lines if line is not None]
    with_equation = [place for place, line in enumerate(read) if len(line) > 1]
    if len(read) < len(lines) or not with_equation or reference.answer is None:
        return None
    answer, wrong_at = reference.answer, None
    if kind is not None:
        wrong_at = rng.choice(with_equation)
        planted = _planted(read, wrong_at, kind, rng)
        if planted is None:
            return None
        read, answer = planted, planted[-1][-2].result if len(planted[-1]) > 1 else answer
    in_latex = rng.random() < 0.5
    steps, label = _written(read, wrong_at, in_latex, rng)
    if rng.random() < 0.3:
        steps.insert(0, WorkedStep(rng.choice(_OPENINGS), ()))
        label += label >= 0
    if rng.random() < 0.6:
        steps.append(WorkedStep(rng.choice(_CLOSINGS).format(answer), ()))
    return WorkedSolution(id, reference.problem, tuple(steps), reference.answer, label, kind, "gsm8k")


def _pieces(line: str) -> list[Piece] | None:
    """A line taken apart; None if it states something that its annotations do not."""
    pieces, at = [], 0
    for match in _ANNOTATION.finditer(line):
        left, stated, dollar, shown = match.groups()
        left, result = _tidy(left), _tidy(stated)
        values = evaluate(left), evaluate(result)
        if None in values or not re.search(r"\d\s*[-+*/]", left) or abs(values[0] - values[1]) >= TOLERANCE:  # type: ignore[operator]
            return None
        if shown is not None and evaluate(_tidy(shown)) != values[1]:
            return None
        pieces.append(Piece(line[at : match.start()], left, result, bool(dollar)))
        at = match.end()
    rest = line[at:]
    # An equation without an annotation would teach that equations may be passed over.
    texts = [_WRITTEN.sub("", piece.text) for piece in pieces]
    if any(re.search(r"\d\s*=|=\s*\$?\d", text) for text in [*(text.rstrip("=$ ") for text in texts), rest]):
        return None
    return [*pieces, Piece(rest)] if "<<" not in rest else None


def _tidy(text: str) -> str:
    """A number or an expression as Python has it: no commas, no leading noughts."""
    text = text.replace(",", "").replace("$", "").strip()
    return re.sub(r"(?<![\d.])0+(?=\d)", "", re.sub(r"(?<![\d.])\.(?=\d)", "0.", text))


def _planted(lines: list[list[Piece]], at: int, kind: str, rng: random.Random) -> list[list[Piece]] | None:
    """The lines with a wrong result in one, and with what follows from it in the others."""
    made: list[list[Piece]] = []
    wrong: dict[str, str] = {}
    planted_in = rng.randrange(len(lines[at]) - 1)
    for place, line in enumerate(lines):
        pieces = []
        for number, piece in enumerate(line):
            left = None if piece.left is None else _renumbered(piece.left, wrong)
            text, result = _renumbered(piece.text, wrong), piece.result
            if (place, number) == (at, planted_in):
                result = _slip(piece, kind, rng) or ""
                if not result:
                    return None
            elif left is not None and left != piece.left:
                result = _shown(evaluate(left))
                if not result:
                    return None
            if result != piece.result:
                wrong[piece.result] = result
            pieces.append(Piece(text, left, result, piece.dollar))
        made.append(pieces)
    return made


def _renumbered(text: str, numbers: Mapping[str, str]) -> str:
    return _NUMBER.sub(lambda match: numbers.get(_tidy(match.group()), match.group()), text)


def _shown(value: float | None) -> str:
    """A number as a solution states it; empty for one that nobody would write."""
    if value is None or abs(value) > 10**9:
        return ""
    return str(round(value)) if abs(value - round(value)) < 1e-9 else str(round(value, 2))


def _slip(piece: Piece, kind: str, rng: random.Random) -> str | None:
    """A wrong result of an equation."""
    true, left = evaluate(piece.result), piece.left
    assert true is not None  # see `_pieces`
    assert left is not None
    wrong: float | None = None
    if kind == "digit":
        place = rng.choice([place for place, digit in enumerate(piece.result) if digit.isdigit()])
        other = rng.choice([d for d in "0123456789" if d != piece.result[place] and (place or d != "0")])
        wrong = evaluate(_tidy(piece.result[:place] + other + piece.result[place + 1 :]))
    elif kind == "off":
        wrong = true + rng.choice((-10, -2, -1, 1, 2, 10))
    elif kind == "magnitude":
        wrong = true * 10 if rng.random() < 0.5 else true / 10
    elif kind == "operation":
        signs = [match.start() for match in re.finditer(r"(?<=[\d) ])[-+*/]", left)]
        place = rng.choice(signs)
        wrong = evaluate(
            left[:place] + rng.choice([sign for sign in "+-*/" if sign != left[place]]) + left[place + 1 :]
        )
    shown = _shown(wrong)
    value = evaluate(shown) if shown else None
    return shown if value is not None and value >= 0 and abs(value - true) > 2 * TOLERANCE else None


def _written(
    lines: Sequence[Sequence[Piece]], wrong_at: int | None, in_latex: bool, rng: random.Random
) -> tuple[list[WorkedStep], int]:
    """The steps, some of two lines, and the index of the wrong one."""
    steps: list[WorkedStep] = []
    label = -1
    for place, line in enumerate(lines):
        text = "".join(_piece_text(piece, in_latex, rng) for piece in line).strip()
        equations: list[tuple[str, ...]] = [(piece.left, piece.result) for piece in line if piece.left is not None]
        if place and rng.random() < 0.25:
            before = steps.pop()
            end = "" if before.text.endswith((".", ":", "]")) else "."
            text, equations = f"{before.text}{end} {text}", [*before.equations, *equations]
        elif _BARE.match(text) and rng.random() < 0.4:
            text = rng.choice(_ORDINALS) + text[0].lower() + text[1:]
        steps.append(WorkedStep(text, tuple(equations)))
        if place == wrong_at:
            label = len(steps) - 1
    return steps, label


def _piece_text(piece: Piece, in_latex: bool, rng: random.Random) -> str:
    if piece.left is None:
        return piece.text
    written = _WRITTEN.search(piece.text)
    is_money = piece.dollar or (written is not None and piece.text.rstrip().endswith("$"))
    dollar = r"\$" if in_latex and is_money else "$" if is_money else ""
    result = f"{int(piece.result):,}" if piece.result.isdigit() and rng.random() < 0.5 else piece.result
    if written is None:  # "half of them, <<48/2=24>>24"
        return f"{piece.text}{dollar}{result}"
    # The annotation, so that text and equation agree.
    left, before = piece.left, piece.text[: written.start()]
    space = " " if before and not before.endswith((" ", "$")) else ""
    if not in_latex:
        times, by = rng.choice(("*", "*", "x", "×")), rng.choice(("/", "/", "÷"))
        left = left.replace("*", times).replace("/", by)
        if rng.random() < 0.7:
            left = re.sub(r"\s*([-+*/x×÷])\s*", r" \1 ", left).strip()
        if is_money and re.fullmatch(r"[\d. +-]+", left) and rng.random() < 0.5:
            left = re.sub(r"\d[\d.]*", r"$\g<0>", left)
        return f"{before.removesuffix('$')}{space}{left} = {dollar}{result}"
    fraction = re.fullmatch(r"([\d.]+)\s*/\s*([\d.]+)", left)
    if fraction and rng.random() < 0.7:
        left = rf"\frac{{{fraction[1]}}}{{{fraction[2]}}}"
    else:
        left = left.replace("*", r" \times ").replace("/", rng.choice(("/", r" \div ")))
        left = re.sub(r"\s+", " ", re.sub(r"([-+])", r" \1 ", left)).strip()
    opened, closed = rng.choice(((r"\(", r"\)"), (r"\(", r"\)"), (r"\[", r"\]"), ("$", "$")))
    return f"{before.removesuffix('$')}{space}{opened}{left} = {dollar}{result}{closed}"
