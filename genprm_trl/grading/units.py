"""What stands behind a number: units of measure, money, and the words for what was counted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

# Name: (dimension, size). Names are singular; an abbreviation keeps its case where case tells units apart.
_UNITS: dict[str, tuple[str, Fraction]] = {}


def _define(dimension: str, **sizes: object) -> None:
    for names, size in sizes.items():
        for name in names.split("__"):
            _UNITS[name] = (dimension, Fraction(str(size)))


_define(
    "length", mm__millimeter__millimetre="0.001", cm__centimeter__centimetre="0.01", m__meter__metre=1,
    km__kilometer__kilometre=1000, inch="0.0254", ft__foot="0.3048", yd__yard="0.9144", mi__mile="1609.344",
)  # fmt: skip
_define("mass", mg__milligram="0.001", g__gram=1, kg__kilogram__kilo=1000, oz__ounce="28.349523125",
        lb__pound="453.59237", ton__tonne=1_000_000)  # fmt: skip
_define("time", ms__millisecond="0.001", s__sec__second=1, min__minute=60, h__hr__hour=3600, day=86400, week=604800)
_define("months", month=1, yr__year=12, decade=120, century=1200)
_define("volume", ml__mL__milliliter__millilitre="0.001", l__L__liter__litre=1, gal__gallon="3.785411784",
        quart="0.946352946", pint="0.473176473")  # fmt: skip
_CURRENCIES = ("dollar", "euro", "sterling", "rupee", "yen")
_define("dollar", dollar__usd__buck=1, cent="0.01")
_define("euro", euro__eur=1)
_define("sterling", gbp=1)
_define("rupee", rupee__rs__inr=1)
_define("yen", yen__jpy=1)
_define("percent", percent__pct__percentage=1)
_define("angle", degree__deg=1)
_define("radian", radian__rad=1)
_define("celsius", celsius=1)
_define("fahrenheit", fahrenheit=1)
_define("force", N__newton=1)
_define("energy", J__joule=1, kJ__kilojoule=1000)
_define("power", W__watt=1, kW__kilowatt=1000)
_define("voltage", V__volt=1)
_define("current", A__amp__ampere=1)
_define("frequency", Hz__hertz=1)
_define("resistance", ohm=1)

# Units of one letter are read as such only where no variable can be meant.
ONE_LETTER = frozenset(name for name in _UNITS if len(name) == 1)
SIGNS = {"\ue002": "dollar", "€": "euro", "£": "gbp", "¥": "yen", "₹": "rupee"}
SCALES = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_LONG = {"mph": "mi/h", "kmph": "km/h", "kph": "km/h", "kmh": "km/h", "sqft": "ft^2", "cc": "cm^3", "in": "inch",
         "°c": "celsius", "°f": "fahrenheit", "°": "degree"}  # fmt: skip
_IRREGULAR = {"people": "person", "children": "child", "men": "man", "women": "woman", "feet": "foot"}
# These say nothing of what was counted or measured.
_EMPTY_WORDS = frozenset(
    [
        "unit",
        "of",
        "the",
        "a",
        "an",
        "on",
        "at",
        "to",
        "for",
        "all",
        "total",
        "altogether",
        "each",
        "only",
        "st",
        "nd",
        "rd",
        "th",
        "and",
        "his",
        "her",
        "their",
        "its",
        "remaining",
        "away",
        "approximately",
        "about",
        "overall",
        "whole",
        "number",
        "long",
        "old",
    ]
)
_OPPOSITES = (
    ("left west", "right east"),
    ("north", "south"),
    ("up above over", "down below under"),
    (
        "more gain gained gains profit increase increased increases",
        "fewer less loss lost loses decrease decreased off",
    ),
    ("before earlier", "after later"),
    ("faster", "slower"),
    ("older", "younger"),
    ("taller longer", "shorter"),
    ("clockwise", "counterclockwise anticlockwise"),
    ("ad ce", "bc bce"),
)
_SENSES = {
    word: (row, side)
    for row, sides in enumerate(_OPPOSITES)
    for side, words in enumerate(sides)
    for word in words.split()
}
_WORD = re.compile(r"[A-Za-z°]+|\^\s*\{?\s*-?\d\s*\}?|/")


@dataclass(frozen=True, slots=True)
class Unit:
    """What stands behind a number.

    Attributes:
        size: How many of the dimension's base units it is.
        dimension: The powers of base dimensions; empty where a word is not known as a unit of measure.
        words: The words themselves, in the singular, without those that say nothing.
        senses: The words that have an opposite: the row of `_OPPOSITES`, and the side of it.
    """

    size: Fraction
    dimension: tuple[tuple[str, int], ...]
    words: frozenset[str]
    senses: frozenset[tuple[int, int]] = frozenset()

    @property
    def is_percent(self) -> bool:
        """Whether it is the hundredth part."""
        return self.dimension == (("percent", 1),)

    def contradicts(self, other: Unit) -> bool:
        """Whether a word of the other means the opposite of one of this: profit and loss, left and right."""
        return any((row, 1 - side) in other.senses for row, side in self.senses)

    @property
    def money(self) -> str | None:
        """The currency, also of money per something."""
        return next((name for name, power in self.dimension if name in _CURRENCIES and power == 1), None)


def read_unit(text: str) -> Unit:
    """Reads the words behind a number. Takes any text."""
    text = re.sub(r"(?i)percentage points?", "percent", text)
    text = re.sub(r"(?i)degrees? (celsius|fahrenheit|[CF]\b)", r"°\1", text.replace(".", "").replace("\\cdot", " "))
    text = re.sub(r"(?i)°(celsius|fahrenheit)", r"\1", text)
    parts = [part for word in _WORD.findall(text) for part in _WORD.findall(_LONG.get(word.lower(), word))]
    size, powers, words, senses = Fraction(1), dict[str, int](), set[str](), set[tuple[int, int]]()
    known, sign, coming, last = True, 1, 1, ""
    for part in parts:
        lower = part.lower()
        if part == "/" or lower == "per":
            sign = -1
        elif part.startswith("^") or lower in ("squared", "cubed"):
            if last:  # the first power of it is there already
                power = {"squared": 2, "cubed": 3}.get(lower) or int(re.sub(r"[^-\d]", "", part))
                size, powers = _times(size, powers, last, sign * (power - 1))
        elif lower in ("square", "sq", "cubic", "cu"):
            coming = 3 if lower.startswith("cu") else 2
        elif lower in _SENSES:
            senses.add(_SENSES[lower])
        elif lower not in _EMPTY_WORDS and _singular(lower) not in _EMPTY_WORDS:
            name = _singular(part)
            name = name if name in _UNITS else name.lower()
            words.add(name)
            last = name if name in _UNITS else ""
            known = known and bool(last)
            if last:
                size, powers = _times(size, powers, last, sign * coming)
            coming = 1
    dimension = tuple(sorted((name, power) for name, power in powers.items() if power)) if known else ()
    dimension = dimension if words else ()
    return Unit(size if dimension else Fraction(1), dimension, frozenset(words), frozenset(senses))


def _times(size: Fraction, powers: dict[str, int], name: str, power: int) -> tuple[Fraction, dict[str, int]]:
    dimension, one = _UNITS[name]
    each = 1
    if dimension == "volume":  # a litre is the thousandth part of a cubic metre
        dimension, one, each = "length", one / 1000, 3
    return size * one**power, {**powers, dimension: powers.get(dimension, 0) + each * power}


def _singular(word: str) -> str:
    lower = word.lower()
    if lower in _IRREGULAR:
        return _IRREGULAR[lower]
    if len(word) <= 2 or word in _UNITS or lower in _UNITS or lower.endswith("ss"):
        return word
    if lower.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if lower.endswith(("ches", "shes", "xes", "oes")):
        return word[:-2]
    return word[:-1] if lower.endswith("s") else word


# ---------------------------------------------------------------------------------------------------------------------
# Numbers as words

_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_VALUES = {word: n for n, word in enumerate(_ONES)} | {word: 10 * n for n, word in enumerate(_TENS, 2)}


def read_number_words(text: str) -> Fraction | None:
    """The number that words like `twenty-one`, `three hundred` or `two thirds` spell, or None."""
    words = text.lower().replace("-", " ").split()
    if not words or len(words) > 12:
        return None
    part = _PARTS.get(words[-1].removesuffix("s")) if words[-1] != "halves" else 2
    if part is not None:
        count = 1 if words[:-1] in ([], ["a"], ["an"]) else _read_whole_number(words[:-1])
        return Fraction(count, part) if count is not None and (len(words) > 1 or part == 2) else None
    whole = _read_whole_number(words)
    return None if whole is None else Fraction(whole)


def _read_whole_number(words: list[str]) -> int | None:
    if words[0] not in _VALUES:
        return None
    total, part, last = 0, 0, 100
    for word in words:
        value = _VALUES.get(word)
        if value is not None:
            if value >= last or (last != 100 and value == 0):
                return None
            part, last = part + value, 10 if value >= 20 else 0
        elif word == "hundred" and 0 < part < 100:
            part, last = part * 100, 100
        elif word in ("thousand", "million", "billion") and part:
            total, part, last = total + part * SCALES[word], 0, 100
        elif word != "and":
            return None
    return total + part
