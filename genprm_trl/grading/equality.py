"""Whether two answers are equal, as a person would say.

The comparison is symmetric: the two are brought into a fixed order of kinds, and each kind is compared in one place.
What one side leaves out (a unit, a name, a percent sign, a base) is taken from the other. In doubt answers differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from genprm_trl.grading.kinds import (
    Answer,
    Based,
    Choice,
    Clock,
    Date,
    Either,
    Expression,
    Infinity,
    Items,
    Matrix,
    Named,
    Nothing,
    Number,
    Quantity,
    Range,
    Ratio,
    Relation,
    Union,
    Words,
    as_range,
)
from genprm_trl.grading.notation import TEXT_OPEN
from genprm_trl.grading.units import Unit

Leaf = Number | Expression | Relation | Infinity
Algebra = Callable[[Leaf, Leaf], bool]

# A decimal number stands for what it was rounded from only from this many digits on.
_DIGITS = 6
# Two numbers of a computer's precision may differ in the last digits.
_NOISE = Fraction(1, 10**12)

_ORDER: tuple[type, ...] = (
    Either, Choice, Named, Quantity, Union, Range, Items, Matrix, Based, Ratio, Clock, Date, Nothing, Words, Infinity,
    Relation, Expression, Number,
)  # fmt: skip
_PLACE = {kind: place for place, kind in enumerate(_ORDER)}


def equal(a: Answer, b: Answer, algebra: Algebra) -> bool:
    """Whether two answers are equal.

    Args:
        a: One answer.
        b: The other.
        algebra: Compares what only algebra can compare; symmetric.
    """
    if a == b:
        return True
    if _PLACE[type(a)] > _PLACE[type(b)]:
        a, b = b, a
    match a:
        case Either():
            return any(equal(reading, b, algebra) for reading in a.readings)
        case Choice():
            return _choices(a, b, algebra)
        case Named():
            return _named(a, b, algebra)
        case Quantity():
            return _quantities(a, b, algebra)
        case Union() | Range():
            return _ranges(a, b, algebra)
        case Items():
            return _items(a, b, algebra)
        case Matrix():
            return _matrices(a, b, algebra)
        case Based():
            # Digits alone may have lost their base; with letters among them they have not.
            own = a.digits if a.digits.isdigit() else str(int(a.digits, a.base))
            return isinstance(b, Number) and b.value.denominator == 1 and own == str(b.value)
        case Ratio():
            return _ratios(a, b, algebra)
        case Clock() if isinstance(b, Clock):
            return _clocks(a, b)
        case Clock() if isinstance(b, Number):
            return not (a.minute or a.second) and a.hour == b.value
        case Date() if isinstance(b, Date):
            return (a.month, a.day) == (b.month, b.day) and (not (a.year and b.year) or a.year == b.year)
        case Number():
            assert isinstance(b, Number)
            return close(a, b.value) or close(b, a.value)
        case Relation() | Expression():
            return _is_algebra(a) and _is_algebra(b) and algebra(a, b)  # type: ignore[arg-type]
    return False


def close(number: Number, value: Fraction) -> bool:
    """Whether a number as written stands for a value: it is the value, or the value rounded to many digits."""
    difference = abs(number.value - value)
    if not difference:
        return True
    if number.decimals < _DIGITS or number.digits < _DIGITS:
        return False
    return difference * 2 <= Fraction(1, 10**number.decimals) or difference <= abs(value) * _NOISE


def _is_algebra(leaf: Answer) -> bool:
    """Whether algebra may be asked. It would take words for products, and brackets for what it likes."""
    if isinstance(leaf, Number):
        return True
    if not isinstance(leaf, Expression | Relation):
        return False
    return TEXT_OPEN not in leaf.text and not re.search(r"\([^()]*,[^()]*\)|\\ldots|[?!]\w|\d\s*_", leaf.text)


# ---------------------------------------------------------------------------------------------------------------------
# What one side may leave out


def _choices(a: Choice, b: Answer, algebra: Algebra) -> bool:
    if isinstance(b, Choice):
        return a.letter == b.letter and (a.value is None or b.value is None or equal(a.value, b.value, algebra))
    if isinstance(b, Expression) and b.text.upper() == a.letter:
        return True
    return a.value is not None and equal(a.value, b, algebra)


def _named(a: Named, b: Answer, algebra: Algebra) -> bool:
    if isinstance(b, Relation):
        return _is_algebra(Relation(a.text)) and algebra(Relation(a.text), b)
    if not isinstance(b, Named):
        return equal(a.value, b, algebra)
    if a.name == b.name:
        return equal(a.value, b.value, algebra)
    # Another name, but perhaps the same equation: y = x + 1 and x = y - 1.
    both = (a.value, b.value)
    if not all(isinstance(value, Expression) and re.search(r"[A-Za-z]", value.text) for value in both):
        return False
    left, right = Relation(a.text), Relation(b.text)
    return _is_algebra(left) and _is_algebra(right) and algebra(left, right)


def _quantities(a: Quantity, b: Answer, algebra: Algebra) -> bool:
    if _is_size(a) or (isinstance(b, Quantity) and _is_size(b)):
        return a.value == (b.value if isinstance(b, Quantity) else b)
    if isinstance(b, Quantity):
        if {a.unit.dimension, b.unit.dimension} == {(("angle", 1),), (("radian", 1),)}:
            ours, theirs = _in_radians(a), _in_radians(b)
            return ours is not None and theirs is not None and equal(ours, theirs, algebra)
        sizes = _sizes(a.unit, b.unit)
        if sizes is None:
            return False
        if sizes[0] == sizes[1]:
            return equal(a.value, b.value, algebra)
        if not isinstance(a.value, Number) or not isinstance(b.value, Number):
            return False
        return a.value.value * sizes[0] == b.value.value * sizes[1]
    if not isinstance(b, Number | Expression | Ratio):
        return False
    if equal(a.value, b, algebra):
        return True
    if isinstance(b, Expression) and r"\pi" in b.text and (angle := _in_radians(a)) is not None:
        return equal(angle, b, algebra)
    if a.unit.is_percent and isinstance(a.value, Number):
        hundredth = Number(a.value.value / 100, a.value.decimals and a.value.decimals + 2, a.value.digits)
        return equal(hundredth, b, algebra)
    return False


def _in_radians(quantity: Quantity) -> Answer | None:
    """An angle without its unit, None if it is none."""
    kind = quantity.unit.dimension
    if kind == (("radian", 1),):
        return quantity.value
    if kind != (("angle", 1),) or not isinstance(quantity.value, Number):
        return None
    part = quantity.value.value / 180
    return Expression(rf"\frac{{{part.numerator}\pi}}{{{part.denominator}}}")


def _is_size(quantity: Quantity) -> bool:
    """Whether it is the size of a matrix or grid, and no product: 2 x 3 matrix."""
    value = quantity.value
    return isinstance(value, Expression) and r"\times" in value.text and not quantity.unit.dimension


def _sizes(a: Unit, b: Unit) -> tuple[Fraction, Fraction] | None:
    """The sizes of two units of one kind, or None."""
    if a.contradicts(b):
        return None
    if (a.words == b.words and a.dimension == b.dimension) or not a.words or not b.words:
        return Fraction(1), Fraction(1)
    if a.dimension and b.dimension:
        if a.dimension == b.dimension:
            return a.size, b.size
        # "18 dollars" and "18 dollars a day"
        bare = (a.dimension, b.dimension)
        if a.money and a.money == b.money and any(len(dimension) == 1 for dimension in bare):
            return Fraction(1), Fraction(1)
        return None
    if bool(a.dimension) != bool(b.dimension) and not (a.words & b.words):
        return None
    return (Fraction(1), Fraction(1)) if a.words <= b.words or b.words <= a.words else None


# ---------------------------------------------------------------------------------------------------------------------
# Several values


def _ranges(a: Union | Range, b: Answer, algebra: Algebra) -> bool:
    if isinstance(b, Relation):
        relation = Relation(a.text) if isinstance(a, Range) and a.text else None
        return relation is not None and _is_algebra(relation) and _is_algebra(b) and algebra(relation, b)
    ours, theirs = (_parts_of(answer) for answer in (a, b))
    if ours is None or theirs is None:
        return False
    names = {part.name for part in (*ours, *theirs) if isinstance(part, Range)} - {""}
    if len(names) > 1 and not _one_name_each(ours, theirs):
        return False
    return _unordered(_joined(ours), _joined(theirs), _same_range, algebra)


def _one_name_each(ours: Sequence[Answer], theirs: Sequence[Answer]) -> bool:
    names = [{part.name for part in parts if isinstance(part, Range)} for parts in (ours, theirs)]
    return names[0] == names[1]


def _parts_of(answer: Answer) -> list[Answer] | None:
    if isinstance(answer, Union):
        parts: list[Answer] = []
        for part in answer.parts:
            within = as_range(part)
            parts.append(part if within is None else within)
        return parts
    within = as_range(answer)
    return None if within is None else [within]


def _joined(parts: list[Answer]) -> list[Answer]:
    """Ranges of numbers that touch, as one."""
    if not all(isinstance(part, Range) and _bound(part.low) and _bound(part.high) for part in parts):
        return parts
    ranges = [part for part in parts if isinstance(part, Range)]
    ranges.sort(key=lambda part: (_bound(part.low) or (0, 0), part.open_low))
    joined: list[Range] = []
    for part in ranges:
        last = joined[-1] if joined else None
        if last is None or not _touch(last, part):
            joined.append(part)
        else:
            ends = sorted((last, part), key=lambda each: (_bound(each.high) or (0, 0), not each.open_high))
            high = ends[-1]
            joined[-1] = Range(last.low, high.high, last.open_low, high.open_high, last.name)
    return list(joined)


def _touch(low: Range, high: Range) -> bool:
    end, start = _bound(low.high), _bound(high.low)
    assert end is not None
    assert start is not None
    return start < end or (start == end and not (low.open_high and high.open_low))


def _bound(answer: Answer) -> tuple[int, Fraction | int] | None:
    if isinstance(answer, Infinity):
        return answer.sign, 0
    return (0, answer.value) if isinstance(answer, Number) else None


def _same_range(a: Answer, b: Answer, algebra: Algebra) -> bool:
    if not isinstance(a, Range) or not isinstance(b, Range):
        return equal(a, b, algebra)
    same_ends = (a.open_low, a.open_high) == (b.open_low, b.open_high)
    return same_ends and equal(a.low, b.low, algebra) and equal(a.high, b.high, algebra)


def _items(a: Items, b: Answer, algebra: Algebra) -> bool:
    if isinstance(b, Matrix):
        vector = b.rows[0] if len(b.rows) == 1 else tuple(row[0] for row in b.rows if len(row) == 1)
        return (
            a.brackets == "<>"
            and len(vector) == max(len(b.rows), len(b.rows[0]))
            and _items(a, Items("<>", vector), algebra)
        )
    if not isinstance(b, Items):
        single = a.brackets == "{}" and len(a.items) == 1 and not isinstance(b, Nothing)
        return single and equal(a.items[0], b, algebra)
    kinds = {a.brackets, b.brackets}
    if "<>" in kinds:  # a vector is a tuple
        kinds = kinds - {"<>"} | {"()"}
    if len(kinds) > 1 and ("" not in kinds or kinds & {"(]", "[)"}):
        return False
    ours, theirs = a.items, b.items
    if _all_named(ours) and _all_named(theirs):
        return _unordered(ours, theirs, _same_pair, algebra)
    if kinds == {"{}"}:
        return all(any(equal(item, other, algebra) for other in theirs) for item in ours) and all(
            any(equal(item, other, algebra) for item in ours) for other in theirs
        )
    if len(ours) != len(theirs):
        return False
    named = _all_named(ours) or _all_named(theirs)
    if kinds <= {"", "{}"} and not named and not ("{}" not in kinds and (_is_in_order(ours) or _is_in_order(theirs))):
        return _unordered(ours, theirs, equal, algebra)
    return all(equal(item, other, algebra) for item, other in zip(ours, theirs, strict=True))


def _all_named(items: Sequence[Answer]) -> bool:
    return len({item.name for item in items if isinstance(item, Named)}) == len(items)


def _same_pair(a: Answer, b: Answer, algebra: Algebra) -> bool:
    assert isinstance(a, Named)
    assert isinstance(b, Named)
    return a.name == b.name and equal(a.value, b.value, algebra)


def _is_in_order(items: Sequence[Answer]) -> bool:
    """Whether a bare list seems to tell values in a certain order, such as that of a question's parts.

    Solutions are written in rising or falling order.
    """
    if len(items) < 3:
        return False
    keys = [_key(item) for item in items]
    if any(key is None for key in keys):
        return False
    kinds = {type(key) for key in keys}
    if len(kinds) > 1:
        return True
    rising = sorted(keys)  # type: ignore[type-var]
    return keys not in (rising, rising[::-1])


def _key(item: Answer) -> Fraction | str | None:
    if isinstance(item, Quantity | Named):
        return _key(item.value)
    if isinstance(item, Number):
        return item.value
    if isinstance(item, Words):
        return item.text
    if isinstance(item, Choice):
        return item.letter
    return item.text if isinstance(item, Expression) and re.fullmatch("[A-Za-z]", item.text) else None


def _unordered(
    ours: Sequence[Answer],
    theirs: Sequence[Answer],
    same: Callable[[Answer, Answer, Algebra], bool],
    algebra: Algebra,
) -> bool:
    """Whether each answer of one side has its own equal on the other."""
    if len(ours) != len(theirs):
        return False
    left = list(theirs)
    for item in ours:
        place = next((n for n, other in enumerate(left) if same(item, other, algebra)), None)
        if place is None:
            return False
        del left[place]
    return True


def _matrices(a: Matrix, b: Answer, algebra: Algebra) -> bool:
    if isinstance(b, Expression):
        left = Expression(a.text)
        return _is_algebra(left) and _is_algebra(b) and r"\begin" in b.text and algebra(left, b)
    if not isinstance(b, Matrix) or [len(row) for row in a.rows] != [len(row) for row in b.rows]:
        return False
    return all(
        equal(item, other, algebra)
        for row, other_row in zip(a.rows, b.rows, strict=True)
        for item, other in zip(row, other_row, strict=True)
    )


def _ratios(a: Ratio, b: Answer, algebra: Algebra) -> bool:
    ours = [part.value for part in a.parts if isinstance(part, Number)]
    if isinstance(b, Ratio):
        theirs = [part.value for part in b.parts if isinstance(part, Number)]
        pairs = zip(ours, theirs, strict=False)
        return len(ours) == len(theirs) and all(left * theirs[0] == right * ours[0] for left, right in pairs)
    return len(ours) == 2 and equal(Number(ours[0] / ours[1]), b, algebra)


def _clocks(a: Clock, b: Clock) -> bool:
    if (a.minute, a.second) != (b.minute, b.second):
        return False
    if a.half and b.half:
        return a.half == b.half and a.hour % 12 == b.hour % 12
    if a.half or b.half:
        half, hour, other = (a.half, a.hour, b.hour) if a.half else (b.half, b.hour, a.hour)
        return other in (hour, hour % 12 + (12 if half == "p" else 0))
    return a.hour == b.hour
