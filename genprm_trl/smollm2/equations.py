r"""Equations between numbers: Python that checks them, and a rule that finds them in what a model wrote.

An equation is a list of expressions that a step sets equal to one another: `A = (4 + 3 + -5) = (4 + 3 - 5) = 2` states
`["(4 + 3 + -5)", "(4 + 3 - 5)", "2"]`.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

# Written solutions round. A planted error is larger.
TOLERANCE = 0.05
NO_EQUATION = "no equation"

_OPERATIONS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_MAX_LENGTH = 200  # of an expression, so that none takes long to parse


def evaluate(expression: str) -> float | None:
    """The value of an expression of numbers, `+ - * /` and brackets; None for any other text.

    Examples:
        >>> evaluate("(4 + 3 - 5) * 2"), evaluate("2x"), evaluate("1 / 0")
        (4, None, None)
    """
    if len(expression) > _MAX_LENGTH:
        return None
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _value(node: ast.AST) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value  # type: ignore[return-value]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.operand))
    raise ValueError(node)


def check_code(equations: Sequence[Sequence[str]]) -> str:
    """Python that prints `True` or `False` for each equation; `no equation` where there is none.

    Whole numbers are compared exactly, others within `TOLERANCE`. What a step states follows an equals sign, as in
    the step itself, so a model copies it token by token. Right behind a bracket the same characters are other tokens,
    and a small model loses count of the brackets.

    Args:
        equations: Each with two expressions at least.

    Examples:
        >>> print(check_code([["48 + 24", "72"], ["12/60", "0.2"]]))
        same = 48 + 24 == 72
        print(same)
        same = abs(12/60 - 0.2) < 0.05
        print(same)
    """
    comparisons = []
    for equation in equations:
        if any(mark in side for side in equation for mark in "/."):
            pairs = pairwise(equation)
            comparisons += [f"abs({left} - {_operand(right)}) < {TOLERANCE}" for left, right in pairs]
        else:
            comparisons.append(" == ".join(equation))
    lines = [f"same = {comparison}\nprint(same)" for comparison in comparisons]
    return "\n".join(lines) if lines else f'print("{NO_EQUATION}")'


def _operand(text: str) -> str:
    return text if re.fullmatch(r"[\d.]+|\([^()]*\)", text) else f"({text})"


def accepts(output: str) -> bool:
    """Whether what `check_code`'s program printed says that a step is right."""
    lines = output.splitlines()
    return bool(lines) and all(line in ("True", NO_EQUATION) for line in lines)


def holds(equation: Sequence[str]) -> bool:
    """Whether all sides of an equation have the same value, as `check_code` decides it."""
    values = [evaluate(side) for side in equation]
    tolerance = TOLERANCE if any(mark in side for side in equation for mark in "/.") else 0
    return all(
        left is not None and right is not None and (left == right or abs(left - right) < tolerance)
        for left, right in pairwise(values)
    )


_LATEX = (
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\(?:times|cdot)|[x×·](?=\s*[\d($])|\*"), "*"),
    (re.compile(r"\\div|÷"), "/"),
    (re.compile(r"\\text\s*\{[^{}]*\}|\\boxed|\\left|\\right|\\quad|\\[,;! ]|\\\$|\$"), " "),
    (re.compile(r"\\[()\[\]]"), " ; "),
    (re.compile(r"[−–]"), "-"),
    (re.compile(r"(?<=\d),(?=\d{3}\b)"), ""),
    (re.compile(r"[{}]"), " "),
    (re.compile(r"(?<=[\d)])\s+(?=[\d(])"), " ; "),  # a number ends one expression, and the next begins another
)
# Expressions and equals signs, in one run.
_RUN = re.compile(r"[-+*/().\d\s=]+")


def stated_equations(step: str) -> list[list[str]]:
    r"""The equations between numbers that a step states, found by a hand-written rule.

    It is a yardstick for what a model finds, and tells kinds of errors apart. What it cannot read is no equation.

    Examples:
        >>> stated_equations(r"Then \( \frac{1300}{2} = 650 \), so she pays $650 \times 2 = $1,300.")
        [['((1300)/(2))', '650'], ['650 * 2', '1300']]
    """
    for pattern, put in _LATEX:
        step = pattern.sub(put, step)
    found: list[list[str]] = []
    for run in _RUN.findall(step):
        sides: list[str] = []
        for text in [*run.split("="), ""]:
            side = _tidy(text) if len(text) <= 2 * _MAX_LENGTH else ""
            if evaluate(side) is not None:
                sides.append(side)
                continue
            if len(sides) > 1 and any(re.search(r"[\d)]\s*[-+*/]", each) for each in sides):
                found.append(sides)
            sides = []
    return found


def _tidy(side: str) -> str:
    side = side.strip().lstrip("*/+.) ").rstrip("-+*/.( ")
    opened = side.count("(") - side.count(")")
    while opened > 0 and side.startswith("("):
        side, opened = side[1:].strip(), opened - 1
    while opened < 0 and side.endswith(")"):
        side, opened = side[:-1].strip(), opened + 1
    return side


def rule_prediction(steps: Sequence[str]) -> int:
    """The first step that states an equation which does not hold, from 0; -1 if there is none."""
    for index, step in enumerate(steps):
        if not all(map(holds, stated_equations(step))):
            return index
    return -1
