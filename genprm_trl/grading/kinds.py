"""What an answer may be: its kinds, and what each consists of."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from genprm_trl.grading.units import Unit


@dataclass(frozen=True, slots=True)
class Number:
    """A rational number.

    Attributes:
        value: The number.
        decimals: Digits behind the decimal point as it was written; 0 where it is exact.
        digits: Significant digits as it was written; 0 where it is exact.
    """

    value: Fraction
    decimals: int = 0
    digits: int = 0


@dataclass(frozen=True, slots=True)
class Infinity:
    """Infinity, of a sign."""

    sign: int


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with a unit, a currency, a percent sign or the words for what was counted."""

    value: Answer
    unit: Unit


@dataclass(frozen=True, slots=True)
class Named:
    """A value that is said to be that of a name: `x = 5`."""

    name: str
    value: Answer
    text: str


@dataclass(frozen=True, slots=True)
class Relation:
    """An equation or inequality that names no value."""

    text: str


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers between two bounds, written as an inequality. The name is empty where there is none."""

    low: Answer
    high: Answer
    open_low: bool
    open_high: bool
    name: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Union:
    """Several ranges."""

    parts: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Items:
    """Several answers in brackets or without: `""`, `"{}"`, `"()"`, `"[)"`; `"<>"` of a vector."""

    brackets: str
    items: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of entries; a vector has one row or one column."""

    rows: tuple[tuple[Answer, ...], ...]
    text: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The letter of an option, and the option's own answer where it was given."""

    letter: str
    value: Answer | None


@dataclass(frozen=True, slots=True)
class Based:
    """Digits to a base other than ten."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """`2 : 3`, of two or more parts."""

    parts: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day. The half of the day is `a`, `p` or empty."""

    hour: int
    minute: int
    second: int
    half: str


@dataclass(frozen=True, slots=True)
class Date:
    """A day of the year. The year is 0 where there is none."""

    month: int
    day: int
    year: int


@dataclass(frozen=True, slots=True)
class Nothing:
    """The empty set; no solution."""


@dataclass(frozen=True, slots=True)
class Words:
    """Plain text, in lower case and without punctuation."""

    text: str


@dataclass(frozen=True, slots=True)
class Either:
    """A text that can be read in several ways, or that gives its answer in several forms."""

    readings: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Expression:
    """What only algebra can compare, in the notation of `grading.notation`."""

    text: str


Answer = (
    Number | Infinity | Quantity | Named | Relation | Range | Union | Items | Matrix | Choice | Based | Ratio | Clock
    | Date | Nothing | Words | Either | Expression
)  # fmt: skip


def as_range(answer: Answer) -> Range | None:
    """An inequality or interval as a range, else None."""
    if isinstance(answer, Range):
        return answer
    if isinstance(answer, Items) and len(answer.items) == 2 and answer.brackets in ("()", "[)", "(]", "[]"):
        low, high = answer.items
        return Range(low, high, answer.brackets[0] == "(", answer.brackets[1] == ")")
    return None
