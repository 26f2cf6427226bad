"""Reading answers without parts: numbers, dates, times, and words."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

from genprm_trl.grading.kinds import (
    Answer,
    Based,
    Clock,
    Date,
    Infinity,
    Nothing,
    Number,
    Quantity,
    Range,
    Ratio,
    Words,
)
from genprm_trl.grading.notation import DOLLAR, GROUP, TEXT_CLOSE, TEXT_OPEN, split, without_text_marks
from genprm_trl.grading.units import read_number_words, read_unit

# ---------------------------------------------------------------------------------------------------------------------
# Words with a meaning

_NOTHING = re.compile(
    r"\\emptyset|(?:the )?empty set|(?:there (?:is|are) )?no (?:such )?(?:solutions?|answers?|values?)(?: exists?)?"
    r"|none|null set",
    re.IGNORECASE,
)
_AND_A_HALF = re.compile(r"(\d+) and ((?:an?|one)[ -]\w+)", re.IGNORECASE)
_AND_A_FRACTION = re.compile(r"(\d+) and (?:(\d+)\s*/\s*(\d+)|\\frac\{(\d+)\}\{(\d+)\})")
_OF_A_PROGRAM = re.compile(r"0x[0-9A-Fa-f]{1,16}|0b[01]{1,64}|0o[0-7]{1,24}")
_ORDINALS = {word: number for number, word in enumerate(("first", "second", "third", "fourth", "fifth"), 1)}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
_ISO_DATE = re.compile(r"(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
_FEET = re.compile(r"(\d+)\s*'\s*(\d{1,2}(?:\.\d+)?)\s*(?:\"|'')?")
_COMPOUND = re.compile(r"\d+\s*[A-Za-z]+\.?(?:\s*,?\s*(?:and\s)?\s*\d+(?:\.\d+)?\s*[A-Za-z]+\.?){1,3}")
_REALS = re.compile(r"\\mathbb\{R\}|(?:all|any) real(?: numbers?)?|all reals", re.IGNORECASE)
_CLOCK = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?\s*(?:([ap])\.?\s*m\.?)?|(\d{1,2})\s*([ap])\.?\s*m\.?", re.I)
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH = (
    r"(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DATES = (
    re.compile(
        rf"(?:the )?(?P<day>\d{{1,2}})(?:st|nd|rd|th)? (?:of )?(?P<month>{_MONTH})(?:,? (?P<year>\d{{4}}))?", re.I
    ),
    re.compile(rf"(?P<month>{_MONTH}) (?:the )?(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:,? (?P<year>\d{{4}}))?", re.I),
)


def read_fixed(plain: str) -> Answer | None:
    """Reads words and forms that have one meaning, whatever stands around them."""
    if len(plain) > 60:
        return None
    if _NOTHING.fullmatch(plain):
        return Nothing()
    if _REALS.fullmatch(plain):
        return Range(Infinity(-1), Infinity(1), True, True)
    for pattern in _DATES:
        if (match := pattern.fullmatch(plain)) is not None:
            month = _MONTHS.index(match["month"][:3].lower()) + 1
            return Date(month, int(match["day"]), int(match["year"] or 0))
    if (match := _ISO_DATE.fullmatch(plain)) is not None:
        return Date(int(match[2]), int(match[3]), int(match[1]))
    if _OF_A_PROGRAM.fullmatch(plain):
        return Number(Fraction(int(plain, 0)))
    if plain.lower().removeprefix("the ") in _ORDINALS:
        return Number(Fraction(_ORDINALS[plain.lower().removeprefix("the ")]))
    if (match := _CLOCK.fullmatch(plain)) is not None:
        hour, minute, second = int(match[1] or match[5]), int(match[2] or 0), int(match[3] or 0)
        if hour <= 24:
            return Clock(hour, minute, second, (match[4] or match[6] or "").lower())
    if (match := _AND_A_HALF.fullmatch(plain)) is not None:
        part = read_number_words(match[2])
        return Number(int(match[1]) + part) if part is not None else None
    if (match := _AND_A_FRACTION.fullmatch(plain)) is not None:
        above, below = int(match[2] or match[4]), int(match[3] or match[5])
        return Number(Fraction(int(match[1]) * below + above, below)) if 0 < above < below else None
    return {"noon": Clock(12, 0, 0, "p"), "midnight": Clock(12, 0, 0, "a")}.get(plain.lower()) or _read_compound(plain)


def _read_compound(plain: str) -> Answer | None:
    """Reads `2 hours and 30 minutes` in its first unit."""
    if (feet := _FEET.fullmatch(plain)) is not None:
        plain = f"{feet[1]} ft {feet[2]} inch"
    if not _COMPOUND.fullmatch(plain):
        return None
    parts = [(Fraction(number), read_unit(word)) for number, word in _PART.findall(plain)]
    first = parts[0][1]
    if first.dimension == read_unit("hour").dimension:  # 2h30m
        metre = read_unit("m")
        parts = [(number, read_unit("min") if unit == metre else unit) for number, unit in parts]
    sizes = [unit.size for _, unit in parts]
    if any(unit.dimension != first.dimension or not unit.dimension for _, unit in parts):
        return None
    if sizes != sorted(set(sizes), reverse=True):
        return None
    return Quantity(Number(sum(number * unit.size for number, unit in parts) / first.size), first)


# ---------------------------------------------------------------------------------------------------------------------
# Numbers

_UNSIGNED = r"(?:\d+(?:'\d{3})*(?:\.\d*)?|\.\d+)"
_POWER = r"(?:[eE]([-+]?\d{1,3})|\s*(?:\\times|\\cdot|[xX])\s*10\s*\^\s*\{\s*([-+]?\d{1,3})\s*\})"
_DECIMAL = re.compile(rf"([-+]?)\s*({_UNSIGNED}){_POWER}?")
_MIXED = re.compile(
    rf"([-+]?)\s*(?:(\d+(?:'\d{{3}})*)\s*)?\\frac\{{\s*([-+]?{_UNSIGNED})\s*\}}\{{\s*([-+]?{_UNSIGNED})\s*\}}"
)
_SLASH = re.compile(rf"([-+]?)\s*(?:(\d+(?:'\d{{3}})*)\s+)?({_UNSIGNED})\s*/\s*({_UNSIGNED})")
_REPEATING = re.compile(r"([-+]?)\s*(\d*)\.(\d*)\s*(?:\\overline\s*\{(\d+)\}|\\dot\s*\{?(\d)\}?|\((\d+)\))")
_CONTINUED = re.compile(r"([-+]?)\s*(\d*)\.(\d+)\s*\\ldots")
_BASED = re.compile(
    rf"(?P<open>\()?\s*(?P<digits>[0-9A-Fa-f]+)\s*(?(open)\))\s*_\s*\{{"
    rf"\s*(?:{TEXT_OPEN}\s*)?(?:base\s*)?(?P<base>\w+)\s*(?:{TEXT_CLOSE})?\s*\}}"
)
_IN_BASE = re.compile(r"(?P<digits>[0-9A-Fa-f]+),?\s*\(?\s*(?:in\s+)?base[\s-]*(?P<base>\w+)\)?", re.IGNORECASE)
_INFINITE = re.compile(r"([-+]?)\s*\\infty")
_RATIO = re.compile(r"\s*(?::|\bto\b)\s*")


def read_number(text: str) -> Answer | None:
    """Reads a plain number in any of its forms, infinity, a ratio or a number to a base."""
    if len(text) > 3_000:
        return None
    if (match := _DECIMAL.fullmatch(text)) is not None:
        return _decimal(match[1], match[2].replace(GROUP, ""), int(match[3] or match[4] or 0))
    for pattern in (_MIXED, _SLASH):
        if (match := pattern.fullmatch(text)) is not None:
            return _fraction(match)
    if (match := _REPEATING.fullmatch(text)) is not None:
        return Number(_repeating(match[1], match[2], match[3], match[4] or match[5] or match[6]))
    if (match := _CONTINUED.fullmatch(text)) is not None:
        block = re.fullmatch(r"(\d*?)(?:(\d)\2{2,}|(\d{2,}?)\3+)", match[3]) if len(match[3]) < 100 else None
        return Number(_repeating(match[1], match[2], block[1], block[2] or block[3])) if block else None
    if (match := _INFINITE.fullmatch(text)) is not None:
        return Infinity(-1 if match[1] == "-" else 1)
    based = _BASED.fullmatch(text) or _IN_BASE.fullmatch(without_text_marks(text))
    if based is not None:
        digits, written = based["digits"].upper(), based["base"]
        base = int(written) if written.isdigit() and len(written) < 3 else int(read_number_words(written) or 0)
        if 2 <= base <= 16 and all(int(digit, 16) < base for digit in digits) and (digits[0].isdigit() or base > 10):
            return Based(digits.lstrip("0") or "0", base)
    parts = split(text, _RATIO)
    if len(parts) > 1:
        numbers = [read_number(part.strip()) for part in parts]
        if all(isinstance(number, Number) and number.value > 0 for number in numbers):
            return Ratio(tuple(number for number in numbers if number is not None))
    return None


def _decimal(sign: str, digits: str, power: int) -> Number:
    value = Fraction(Decimal(f"{sign}{digits}")) * Fraction(10) ** power
    decimals = max(len(digits.partition(".")[2]) - power, 0)
    if value.denominator == 1 and not decimals:
        return Number(value)
    return Number(value, decimals, len(digits.replace(".", "").lstrip("0")))


def _fraction(match: re.Match[str]) -> Answer | None:
    above, below = (Fraction(match[group].replace(GROUP, "").replace("+", "")) for group in (3, 4))
    if not below:
        return None
    value = above / below
    if match[2]:
        # 2 1/2 is a sum; of 2 7/2 nobody knows.
        if not 0 < value < 1 or value.denominator == 1 or "." in match[3] + match[4]:
            return None
        value += int(match[2].replace(GROUP, ""))
    return Number(-value if match[1] == "-" else value)


def _repeating(sign: str, whole: str, start: str, block: str) -> Fraction:
    period = Fraction(int(block), 10 ** len(start) * (10 ** len(block) - 1))
    value = int(whole or 0) + Fraction(int(start or 0), 10 ** len(start)) + period
    return -value if sign == "-" else value


# ---------------------------------------------------------------------------------------------------------------------
# Words

_ARTICLES = frozenset(("the", "a", "an"))
_SAME_WORDS = {"dne": "does not exist", "doesn't exist": "does not exist"}
_SHORT_WORDS = frozenset((
    "is", "it", "of", "to", "in", "so", "he", "we", "an", "at", "be", "on", "or", "as", "by", "if", "no", "up", "do",
    "my",
))  # fmt: skip


def read_words(text: str, plain: str) -> Answer | None:
    """Reads plain text, or a number in words."""
    if re.search(r"[\\^_+*/=<>|\[\]{}]|\w\(", plain) or DOLLAR in plain:
        return None
    marked = TEXT_OPEN in text
    if not marked and any(not is_word(run) for run in re.findall(r"(?<![^\W\d_])-\s*([A-Za-z]+)", plain)):
        return None  # a difference, not a hyphen
    runs = re.findall(r"[A-Za-z]{2,}", plain)
    if not runs and not re.search(r"[^\W\d_]", re.sub("[A-Za-z]", "", plain)):
        return None
    if not marked and runs and len(max(runs, key=len)) < 5 and not re.search("[aeiouAEIOU]", "".join(runs)):
        return None  # a product of variables
    if runs and not marked and re.match(r"\d+(?:\.\d+)?[A-Za-z]{1,3}$", plain):
        return None
    number = read_number_words(plain)
    if number is not None:
        return Number(number)
    lower = _SAME_WORDS.get(plain.lower(), plain.lower())
    words = [word for word in re.findall(r"[^\W_]+", lower.replace("'", "")) if word]
    kept = [word for word in words if word not in _ARTICLES] or words
    return Words(" ".join(kept))


def is_word(letters: str) -> bool:
    """Whether letters are more likely a word than a product of variables."""
    return letters.lower() in _SHORT_WORDS or (len(letters) > 2 and bool(re.search("[aeiouyAEIOUY]", letters)))
