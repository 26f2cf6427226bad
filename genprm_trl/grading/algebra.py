"""Comparing formulas by algebra: math-verify reads them, and they are equal if they have the same values.

Runs in the processes of `grading.pool` only: what a model writes may keep it busy for ever.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import Any

from genprm_trl.grading.equality import Leaf, close
from genprm_trl.grading.kinds import Infinity, Number, Relation
from genprm_trl.grading.notation import to_latex

_DIGITS = 40
# Values of the variables: irregular, so that no formula has a zero there by chance; first positive ones.
_SAMPLES = (
    (0.3719, 1.2347, 2.7183, 0.8411, 1.9173, 3.1337),
    (1.6271, 0.4513, 0.7919, 2.3417, 3.3171, 0.6133),
    (4.7713, 2.2391, 1.1131, 3.9177, 0.5719, 1.4419),
    (-0.6173, 1.3713, -2.1939, 0.9341, -1.7177, 2.4133),
    (1.1713, -0.5519, 2.9131, -3.1477, 0.3313, -1.8171),
)
_POSITIVE = 3
_IMAGINARY = re.compile(r"(?<![A-Za-z\\])i(?![A-Za-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*°")


def compare(a: Leaf, b: Leaf) -> bool:
    """Whether two formulas are equal. Symmetric."""
    import math_verify

    left, right = (_parse(leaf) for leaf in (a, b))
    if left is None or right is None:
        return False
    same = _same_values(a, left, b, right)
    if same is None:
        pairs = ((left, right), (right, left))
        same = any(math_verify.verify(one, other, timeout_seconds=None) for one, other in pairs)
    return same


def _parse(leaf: Leaf) -> Any:
    """What math-verify makes of a formula, None if it cannot read it."""
    if isinstance(leaf, Number):
        import sympy

        return sympy.Rational(leaf.value.numerator, leaf.value.denominator)
    if isinstance(leaf, Infinity):
        return None
    return _parse_text(leaf.text)


@functools.lru_cache(maxsize=256)
def _parse_text(text: str) -> Any:
    # The parser of math-verify. Called by itself it keeps the case of letters, and takes no variable for a unit.
    import sympy
    from latex2sympy2_extended import NormalizationConfig, latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig
    from math_verify.grader import should_treat_as_complex

    latex = to_latex(_DEGREES.sub(r"(\\frac{\1\\pi}{180})", text))
    try:
        formula = latex2sympy(
            latex,
            is_real=not should_treat_as_complex(latex),
            normalization_config=NormalizationConfig(malformed_operators=True, boxed="none"),
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
        # Decimal fractions are exact: 0.5 is a half.
        formula = formula.xreplace({number: sympy.Rational(str(number)) for number in formula.atoms(sympy.Float)})
        if _IMAGINARY.search(text):
            formula = formula.xreplace({symbol: sympy.I for symbol in formula.free_symbols if symbol.name == "i"})
    except MemoryError:
        raise
    except Exception:
        return None
    return formula


def _same_values(a: Leaf, left: Any, b: Leaf, right: Any) -> bool | None:
    """Whether two formulas have the same value, for whatever their variables are; None where that cannot be told."""
    import sympy

    if isinstance(a, Relation) and isinstance(b, Relation):
        return _same_relation(left, right) or None
    if isinstance(a, Relation) or isinstance(b, Relation):
        return False
    if not isinstance(left, sympy.Expr) or not isinstance(right, sympy.Expr):
        return None
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    if not symbols:
        return _same_constant(a, left, b, right)
    if len(symbols) > len(_SAMPLES[0]):
        return None
    usable = 0
    for number, values in enumerate(_SAMPLES):
        point = {symbol: sympy.Rational(str(value)) for symbol, value in zip(symbols, values, strict=False)}
        ours, theirs = (_value(formula.subs(point)) for formula in (left, right))
        if ours is None or theirs is None:
            continue
        usable += 1
        if not _near(ours, theirs):
            # Where values are negative a formula may mean another branch.
            return False if number < _POSITIVE else None
    return True if usable >= _POSITIVE else None


def _same_relation(left: Any, right: Any) -> bool:
    """Whether two equations or inequalities differ by a constant factor."""
    import sympy

    turned = {sympy.StrictLessThan: sympy.StrictGreaterThan, sympy.LessThan: sympy.GreaterThan}
    kinds, sides = [], []
    for relation in (left, right):
        if not isinstance(relation, sympy.core.relational.Relational):
            return False
        kind, side = type(relation), relation.lhs - relation.rhs
        kinds.append(turned.get(kind, kind))
        sides.append(-side if kind in turned else side)
    symbols = sorted(sides[0].free_symbols | sides[1].free_symbols, key=str)
    if kinds[0] is not kinds[1] or not symbols or len(symbols) > len(_SAMPLES[0]):
        return False
    factors = []
    for values in _SAMPLES:
        point = {symbol: sympy.Rational(str(value)) for symbol, value in zip(symbols, values, strict=False)}
        one, other = (_value(side.subs(point)) for side in sides)
        if one is not None and other is not None and one != 0 and other != 0:
            factors.append(one / other)
    if len(factors) < _POSITIVE or not all(_near(factor, factors[0]) for factor in factors):
        return False
    return kinds[0] in (sympy.Eq, sympy.Ne) or bool(sympy.re(factors[0]) > 0)


def _same_constant(a: Leaf, left: Any, b: Leaf, right: Any) -> bool | None:
    import sympy

    left, right = left.doit(), right.doit()
    if left.is_Rational and right.is_Rational:
        same, ours, theirs = left == right, left, right
    else:
        ours, theirs = (_value(formula) for formula in (left, right))
        if ours is None or theirs is None:
            return None
        same = _near(ours, theirs)
    if same:
        return True
    for number, value in ((a, theirs), (b, ours)):
        if isinstance(number, Number) and not sympy.im(value) and close(number, Fraction(str(sympy.re(value)))):
            return True
    return False


def _value(formula: Any) -> Any:
    """The value of a formula without variables, None if it has none that can be computed."""
    import sympy

    try:
        value = sympy.N(formula.doit(), _DIGITS)
    except MemoryError:
        raise
    except Exception:
        return None
    if not getattr(value, "is_number", False) or not value.is_finite:
        return None
    parts = value.as_real_imag()
    return value if all(isinstance(part, sympy.Float | sympy.Integer | sympy.Rational) for part in parts) else None


def _near(a: Any, b: Any) -> bool:
    """Whether two values differ in the last of many digits only, in relation to their size."""
    import sympy

    difference, size = sympy.Abs(a - b), max(sympy.Abs(a), sympy.Abs(b))
    return bool(difference <= size * sympy.Float(10) ** (10 - _DIGITS))
