"""Reading an answer: what kind of thing it is (`grading.kinds`), and of what parts.

There is one reader for all texts. It takes an answer apart where brackets, commas and relations stand outside of all
brackets, and gives up, with an `Expression`, where only algebra knows more. Two answers are compared by
`grading.equality`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from genprm_trl.grading.kinds import (
    Answer,
    Choice,
    Either,
    Expression,
    Infinity,
    Items,
    Matrix,
    Named,
    Number,
    Quantity,
    Range,
    Relation,
    Union,
    Words,
    as_range,
)
from genprm_trl.grading.notation import (
    DOLLAR,
    GROUP,
    TEXT_CLOSE,
    TEXT_OPEN,
    closing,
    one_notation,
    split,
    tokens,
    without_text_marks,
)
from genprm_trl.grading.simple import is_word, read_fixed, read_number, read_words
from genprm_trl.grading.units import ONE_LETTER, SCALES, SIGNS, Unit, read_unit

_MAX_DEPTH = 8
# Longer answers are formulas, and reading takes time that grows faster than the text.
_MAX_CHARACTERS = 1_000
_MAX_ITEMS = 64


def read_answer(text: str) -> Answer | None:
    """Reads an answer. Takes any text; None if there is nothing to read.

    A sentence is searched for the value that it states.
    """
    if len(text) > _MAX_CHARACTERS:
        return Expression(text)
    notation = one_notation(text)
    turned = _NOT_BUT.match(notation)
    notation = notation[turned.end() :] if turned is not None else notation
    reason = _BECAUSE.search(notation)
    notation = notation[: reason.start()] if reason is not None and reason.start() else notation
    if not notation.strip(" .,;:$"):
        return None
    answer = _read(notation)
    parts = answer.items if isinstance(answer, Items) and not answer.brackets else (answer,)
    if any(map(_may_be_sentence, parts)) and len(_sentence_words(notation)) >= 2:
        return _stated(notation) or (answer if all(map(_is_short, parts)) else None)
    return answer


def squeezed(text: str) -> str:
    """A text in one notation without the blanks that say nothing."""
    text = text.replace(TEXT_OPEN, "").replace(TEXT_CLOSE, "").strip(" .,;:")
    return re.sub(r"(?<![A-Za-z0-9]) +| +(?![A-Za-z0-9])", "", " ".join(text.split()))


# ---------------------------------------------------------------------------------------------------------------------
# Anything

_COMMA = re.compile(r"[,;]|\\\\|\\quad")
_AND = re.compile(rf"[,;]?\s*{TEXT_OPEN}?\s*\b(?:and|or)\b\s*{TEXT_CLOSE}?|\\vee(?![A-Za-z])|\\lor(?![A-Za-z])")
_OR = re.compile(
    rf"[,;]?\s*{TEXT_OPEN}?\s*\bor\b\s*{TEXT_CLOSE}?|\\vee(?![A-Za-z])|\\lor(?![A-Za-z])|\\cup(?![A-Za-z])"
)
_CUP = re.compile(r"\\cup(?![A-Za-z])")
_GROUPS = re.compile(r"(?<![\d.,'])([1-9]\d{0,2})((?:,\d{3})+)(?!\d|,\d)")
_SPACED_GROUPS = re.compile(r"(?<![\d.,'])(?<!\d )([1-9]\d{0,2})((?: \d{3})+)(?!\d| \d)")
# Numbers in brackets of their own: a comma there parts them.
_LISTED = re.compile(r"(?<![\w}\-+*/^)'])(?:[(\[]|\\\{)[\d,;.\s-]*+(?:[)\]]|\\\})")
_HEDGE = re.compile(
    r"(?:approximately|about|around|roughly|exactly|only|just|equal to|equals|is|are|both|either|\\approx|=|\\sim"
    r"|a total of|at(?! (?:least|most))|on|the value|so|thus|hence|therefore|then|finally)(?![A-Za-z])\s*:?\s*"
    rf"|an?\s+(?=[\d{DOLLAR}])",
    re.IGNORECASE,
)
_BECAUSE = re.compile(
    rf",?\s*{TEXT_OPEN}?\s*\b(?:because|since|instead of|rather than)\b"
    rf"|(?<=[\d}})%$])\s*+[,;]?\s*+{TEXT_OPEN}?\s*(?:\(\s*|(?:and|but)\s+)?(?:not|but|though|although|which)\b",
    re.IGNORECASE,
)
# The other way round: not 5 but 6.
_NOT_BUT = re.compile(
    r"(?:\(\s*)?not\s+[^,()]{1,80}?(?:,?\s*\b(?:but|rather)\b(?: rather)?|\))\s*(?=\S)", re.IGNORECASE
)
_OUT_OF = re.compile(r"(\d+) out of (?:the |a total of )?(\d+)(?: [A-Za-z ]+)?", re.IGNORECASE)
_REASON = re.compile(r"\s*(?:because|since|as|where|assuming|given|which|who)\b", re.IGNORECASE)
_COMMENT = re.compile(
    r"\s*(?:i|we|so|altogether|meaning|that|in total|total|overall|respectively|rounded|correct|exactly"
    r"|approximately|by|thus|hence|therefore)\b(?!.*\d)",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(r"\s*(?:and\s+)?(?:so|thus|hence|therefore)\b(?=.*=)", re.IGNORECASE)
_LABELLED = re.compile(r"\((?:[a-h]|i{1,3}|iv|v)\)")


def _read(text: str, depth: int = 0, *, inside: bool = False) -> Answer:
    """Reads a part of an answer.

    Args:
        text: In one notation.
        depth: How many parts it is inside of.
        inside: Whether it stands in brackets, where a comma is no part of a number.
    """
    text = _unwrapped(text)
    if depth > _MAX_DEPTH:
        return Expression(text)
    plain = without_text_marks(text)
    return (
        read_fixed(plain)
        or _read_choice(plain, depth)
        or _read_bound(plain, depth)
        or _read_share(plain)
        or _read_without(text, depth)
        or _read_parts(text, depth, inside)
        or _read_whole(text, plain, depth)
    )


_BOUNDS = re.compile(
    r"(?:(?P<above>(?:more|greater|larger|higher) than|over|above)|(?P<least>at least|(?:no|not) (?:less|fewer) than)"
    r"|(?P<below>(?:less|fewer|smaller|lower) than|under|below)|(?:at most|(?:no|not) more than|up to))\s+(?=\S)",
    re.IGNORECASE,
)


_WITHOUT = re.compile(r"(?:[A-Za-z]\s*\\in\s*)?\\mathbb\{R\}\s*(?:\\setminus|\\backslash|-)\s*\\\{([^{},]+)\\\}")


def _read_without(text: str, depth: int) -> Answer | None:
    """Reads all numbers but one."""
    match = _WITHOUT.fullmatch(text)
    if match is None:
        return None
    value, low, high = _read(match[1], depth + 1), Infinity(-1), Infinity(1)
    return Union((Range(low, value, True, True), Range(value, high, True, True)))


def _read_share(plain: str) -> Answer | None:
    """Reads `5 out of 10`, which says 5 and a half."""
    match = _OUT_OF.fullmatch(plain)
    if match is None or not int(match[2]):
        return None
    part, whole = Fraction(int(match[1])), int(match[2])
    return Either((Number(part), Number(part / whole)))


def _read_bound(plain: str, depth: int) -> Answer | None:
    """Reads `more than 5` and `at most 5`."""
    match = _BOUNDS.match(plain)
    if match is None or len(plain) > 60:
        return None
    value = _read(plain[match.end() :], depth + 1)
    if not isinstance(value.value if isinstance(value, Quantity) else value, Number):
        return None
    if match["above"] or match["least"]:
        return Range(value, Infinity(1), bool(match["above"]), True)
    return Range(Infinity(-1), value, True, bool(match["below"]))


def _read_parts(text: str, depth: int, inside: bool) -> Answer | None:
    """Reads a text of several answers, or None."""
    grouped = _SPACED_GROUPS.sub(lambda m: m[1] + m[2].replace(" ", GROUP), text)
    if not inside:
        listed = [match.span() for match in _LISTED.finditer(grouped)]
        merged = _GROUPS.sub(
            lambda m: (
                m[0] if any(start < m.start() < end for start, end in listed) else m[1] + m[2].replace(",", GROUP)
            ),
            grouped,
        )
        if merged != grouped and re.fullmatch(r"[\d,]+", grouped):
            return Either((_read_whole(merged, merged, depth), _items("", grouped.split(","), depth)))
        grouped = merged
    labels = split(grouped, _LABELLED)
    if len(labels) > 2 and not labels[0].strip():
        return _items("", labels[1:], depth)
    ranges = split(grouped, _OR)
    if len(ranges) > 1:
        parts = [_read(part, depth + 1) for part in ranges[:_MAX_ITEMS]]
        found = [inner for part in parts for inner in _ranges(part)]
        if len(found) >= len(parts) and all(_ranges(part) for part in parts):
            return Union(tuple(found))
        if len(split(grouped, _CUP)) > 1:
            return Expression(text)
    commas = split(grouped, _COMMA)
    plain_parts = [without_text_marks(part) for part in commas]
    for place in range(len(commas) - 1, 0, -1):
        if _CONCLUSION.match(plain_parts[place]):
            commas = commas[place:]
            break
        if not commas[place].strip() or _COMMENT.match(plain_parts[place]) or _REASON.match(plain_parts[place]):
            del commas[place:]
    parts_of_text = [part for comma in commas for part in split(comma, _AND)]
    filled = [part for part in parts_of_text if part.strip()]
    if len(filled) > _MAX_ITEMS:
        return Expression(text)
    if len(filled) > 1:
        return _items("{}" if len(ranges) > 1 else "", filled, depth, inside=inside)
    if filled and filled[0] != text:
        return _read_whole(_unwrapped(filled[0]), without_text_marks(filled[0]), depth)
    return None


def _read_whole(text: str, plain: str, depth: int) -> Answer:
    """Reads a text that is one answer."""
    return (
        _read_relation(text, depth)
        or _read_signs(text, depth)
        or _read_matrix(text, depth)
        or _read_multiple(text, depth)
        or _read_brackets(text, depth)
        or read_number(text)
        or _read_quantity(text, depth)
        or read_words(text, plain)
        or Expression(text)
    )


def _unwrapped(text: str) -> str:
    """Takes off what encloses the whole text, punctuation and words like `about`."""
    for _ in range(_MAX_DEPTH):
        before = text
        text = text.strip(' ,;:?"').strip()
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        if text[:1] in ("{", TEXT_OPEN) and closing(text, 0) == len(text) - 1:
            text = text[1:-1]
        hedge = _HEDGE.match(text)
        if hedge is not None and hedge.end() < len(text):
            text = text[hedge.end() :]
        if text == before:
            break
    return text


def _items(brackets: str, parts: list[str], depth: int, *, inside: bool = False) -> Items:
    """Several answers; a name before the first, `x = 1, 2`, is that of all."""
    read: list[Answer] = []
    for part in parts:
        answer = _read(part, depth + 1, inside=inside or bool(brackets))
        if isinstance(answer, Items) and (not answer.brackets or (_SIGNS.search(part) and answer.brackets == "{}")):
            read.extend(answer.items)
            # Of solutions with two signs the order says nothing.
            brackets = brackets or answer.brackets
        else:
            read.append(answer)
    names = {answer.name if isinstance(answer, Named) else "" for answer in read}
    if len(names - {""}) == 1 and (len(names) == 1 or isinstance(read[0], Named)) and len(read) > 1:
        read = [answer.value if isinstance(answer, Named) else answer for answer in read]
    return Items(brackets, tuple(read))


# ---------------------------------------------------------------------------------------------------------------------
# Choices and ranges

_CHOICES = (
    re.compile(r"(?:option|choice)\s*[(\[]?([A-Ja-j])[)\]]?()", re.IGNORECASE),
    re.compile(r"\(([A-Ja-j])\)\s*[:.]?\s*(.*)"),
    re.compile(r"([A-J])\)\s*(.*)"),
    re.compile(r"([A-J])[.:]\s+(.+)"),
)


def _read_choice(plain: str, depth: int) -> Answer | None:
    for pattern in _CHOICES:
        match = pattern.fullmatch(plain)
        if match is not None:
            rest = match[2].strip()
            if re.match(r"[,;&=+*/^_-]|(?:and|or)\b|\\(?!begin|frac|sqrt|[ $])", rest) or _LABELLED.search(rest):
                return None
            return Choice(match[1].upper(), _read(rest, depth + 1) if rest else None)
    return None


def _ranges(answer: Answer) -> tuple[Answer, ...]:
    """The ranges that an answer is, if it is one or several."""
    if isinstance(answer, Union):
        return answer.parts
    if isinstance(answer, Named):
        return _ranges(answer.value)
    return (answer,) if as_range(answer) is not None or (isinstance(answer, Items) and answer.brackets == "{}") else ()


# ---------------------------------------------------------------------------------------------------------------------
# Relations

_RELATION = re.compile(r"=|<|>|\\(?:le|ge|ne|approx|in|equiv)(?![A-Za-z])")
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
_SUBSCRIPT = re.compile(r"_\s*(?:\{[^{}]*\}|\w)|\^\s*\{\s*(?:-\s*1|'|\\prime)\s*\}")
_ARGUMENTS = re.compile(r"(?<=[A-Za-z}' ])\s*\([^()]*\)")
_NAME = re.compile(
    rf"(?:[A-Za-z'|:\[\]{{}}\s°-]|{TEXT_OPEN}[^{TEXT_CLOSE}]*{TEXT_CLOSE}"
    r"|\\(?!cdot|times|pm|mp|sqrt|sum|int|prod|to|ldots|begin|end|cup|cap|infty|pi(?![A-Za-z]))[A-Za-z]+)+"
)


def _name(text: str) -> str | None:
    """The name on one side of a relation, or None if it is none: `x`, `f(x)`, `AB`, `a + b`."""
    bare = _ARGUMENTS.sub("", _SUBSCRIPT.sub("", text)).strip()
    letters = re.sub(r"\\[A-Za-z]+|[^A-Za-z]", "", bare)
    if ("-" in bare and not re.search(r"[A-Za-z]-[A-Za-z]{2}", bare)) or "+" in bare:
        # What is asked for may be a sum; that of coordinates is more likely an equation.
        if not re.fullmatch(r"[A-Za-z\s+\-]+", bare) or set(letters) & set("xyz"):
            return None
    elif not _NAME.fullmatch(bare):
        return None
    if not letters and "\\" not in bare and TEXT_OPEN not in bare:
        return None
    return re.sub(rf"[\s{{}}{TEXT_OPEN}{TEXT_CLOSE}]", "", text) or None


def _names(text: str) -> list[str] | None:
    """The names of a tuple `(x, y)`."""
    text = text.strip()
    if text[:1] != "(" or closing(text, 0) != len(text) - 1:
        return None
    names = [_name(part) for part in split(text[1:-1], _COMMA)]
    return [name for name in names if name] if len(names) > 1 and all(names) else None


def _read_relation(text: str, depth: int) -> Answer | None:
    outside = {start for _, start, level in tokens(text) if level == 0}
    found = [match for match in _RELATION.finditer(text) if match.start() in outside]
    if not found:
        return None
    bounds = [0, *(place for match in found for place in match.span()), len(text)]
    sides = [text[start:end].strip() for start, end in zip(bounds[::2], bounds[1::2], strict=True)]
    signs = [match.group() for match in found]
    if len(sides) == 2 and not sides[0] and sides[1] and signs[0] in _FLIPPED:
        value, strict = _read(sides[1], depth + 1), signs[0] in "<>"
        if signs[0] in ("<", r"\le"):
            return Range(Infinity(-1), value, True, strict)
        return Range(value, Infinity(1), strict, True)
    if not all(sides):
        return Expression(text)
    if r"\approx" in signs:
        place = signs.index(r"\approx")
        if sides[1:] and place == 0 and (name := _name(sides[0])) is not None:
            return Named(name, _read(sides[-1], depth + 1), text)
        exact = _read(text[: found[place].start()], depth + 1)
        return Either((exact, _read(sides[-1], depth + 1)))
    if set(signs) <= {"=", r"\equiv"}:
        return _read_equation(text, sides, depth)
    if r"\in" in signs:
        name = _name(sides[0])
        if signs == [r"\in"] and name is not None:
            value = _read(sides[1], depth + 1)
            within = as_range(value)
            return Named(name, within if within is not None else value, text)
        return Relation(text)
    if signs == [r"\ne"] and (name := _name(sides[0])) is not None:
        value = _read(sides[1], depth + 1)
        low, high = Infinity(-1), Infinity(1)
        return Union((Range(low, value, True, True, name), Range(value, high, True, True, name)))
    return _read_inequality(text, sides, signs, depth)


def _read_equation(text: str, sides: list[str], depth: int) -> Answer:
    names = _names(sides[0])
    value = _read(sides[-1], depth + 1)
    if names is not None and isinstance(value, Items) and len(value.items) == len(names):
        pairs = zip(names, value.items, strict=True)
        return Items("()", tuple(Named(name, item, text) for name, item in pairs))
    name = _name(sides[0])
    if name is None and len(sides) == 2 and re.fullmatch("[A-Za-z]", sides[1]) and sides[1] not in "eip":
        return Named(sides[1], _read(sides[0], depth + 1), text)  # 5 = x
    if name is not None:
        return Named(name, value, text)
    if not re.search(r"[A-Za-z]", re.sub(rf"\\[A-Za-z]+|{TEXT_OPEN}[^{TEXT_CLOSE}]*{TEXT_CLOSE}", "", sides[0])):
        return value  # a calculation, of which the result is the answer
    return Relation(text)


_DISTANCE = re.compile(r"\|\s*([A-Za-z])\s*(?:([-+])\s*(\d+(?:\.\d+)?)\s*)?\|")


def _read_distance(distance: re.Match[str], sign: str, bound: Answer, text: str) -> Answer:
    """Reads `|x - 2| < 3`, which is one range, and `|x| > 3`, which is two."""
    if not isinstance(bound, Number) or bound.value <= 0:
        return Relation(text)
    name, middle = distance[1], Fraction(distance[3] or 0) * (-1 if distance[2] == "+" else 1)
    low, high, strict = Number(middle - bound.value), Number(middle + bound.value), sign in "<>"
    if sign in ("<", r"\le"):
        return Range(low, high, strict, strict, name, text)
    outer = Range(Infinity(-1), low, True, strict, name), Range(high, Infinity(1), strict, True, name)
    return Union(outer)


def _read_inequality(text: str, sides: list[str], signs: list[str], depth: int) -> Answer:
    if not set(signs) <= set(_FLIPPED) or len(signs) > 2:
        return Relation(text)
    names = [
        _name(side) if re.fullmatch(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?", side) else None for side in sides
    ]
    infinite = Infinity(-1), Infinity(1)
    if len(signs) == 1 and (distance := _DISTANCE.fullmatch(sides[0])) is not None:
        return _read_distance(distance, signs[0], _read(sides[1], depth + 1), text)
    if len(signs) == 1 and sum(name is not None for name in names) == 1:
        first = names[0] is not None
        name = names[0] if first else names[1]
        sign = signs[0] if first else _FLIPPED[signs[0]]
        value = _read(sides[1] if first else sides[0], depth + 1)
        strict = sign in "<>"
        if sign in ("<", r"\le"):
            return Range(infinite[0], value, True, strict, name or "", text)
        return Range(value, infinite[1], strict, True, name or "", text)
    if len(signs) == 2 and names[1] is not None and names[0] is None and names[2] is None:
        if all(sign in ("<", r"\le") for sign in signs):
            low, high, below, above = sides[0], sides[2], signs[0], signs[1]
        elif all(sign in (">", r"\ge") for sign in signs):
            low, high, below, above = sides[2], sides[0], signs[1], signs[0]
        else:
            return Relation(text)
        return Range(_read(low, depth + 1), _read(high, depth + 1), below in "<>", above in "<>", names[1], text)
    return Relation(text)


# ---------------------------------------------------------------------------------------------------------------------
# Brackets, matrices, signs

_SIGNS = re.compile(r"\\(pm|mp)(?![A-Za-z])")
_PAIRS = {"<": "<>", "(": "()", "[": "[]", "{": "{}"}
_ENVIRONMENT = re.compile(
    r"[(\[]?\s*\\begin\{(?P<name>[pb]?matrix\*?|smallmatrix|array)\}(?:\s*\{[^{}]*\})?(?P<body>.*)"
    r"\\end\{(?P=name)\}\s*[)\]]?\s*"
)
_TRANSPOSED = re.compile(rf"([(\[].*[)\]])\s*\^\s*\{{?\s*(?:\\top|{TEXT_OPEN}?T{TEXT_CLOSE}?)\s*\}}?")
_MULTIPLE = re.compile(r"([-+]|[-+]?\s*(?:\d+|\\frac\{\d+\}\{\d+\}))\s*(?:\\cdot|\\times)?\s*(\(.*\))")
_ROW, _CELL = re.compile(r"\\\\"), re.compile("&")
_BUILDER = re.compile(r"[^|:]*(?:\||:)(.*)", re.DOTALL)


def _read_signs(text: str, depth: int) -> Answer | None:
    r"""Reads `1 \pm 2` as two answers."""
    signs = _SIGNS.findall(text)
    if not signs or len(signs) > 4 or text.startswith(r"\{"):
        return None
    upper = _SIGNS.sub(lambda m: "+" if m[1] == "pm" else "-", text)
    lower = _SIGNS.sub(lambda m: "-" if m[1] == "pm" else "+", text)
    return _items("{}", [_tidy(upper), _tidy(lower)], depth)


def _tidy(text: str) -> str:
    return re.sub(r"^\s*\+\s*", "", re.sub(r"(?<=[({,])\s*\+\s*", "", text))


def _read_brackets(text: str, depth: int) -> Answer | None:
    """Reads a set, tuple, list, interval, or an answer in needless brackets."""
    opening, start = _opening(text)
    if opening is None:
        return None
    if (transposed := _TRANSPOSED.fullmatch(text)) is not None:
        vector = _read_brackets(transposed[1], depth)
        return _column(transposed[1], vector) if isinstance(vector, Items) else None
    end = _closing(text)
    if end is None:
        return None
    inner, brackets = text[start : end[1]], _PAIRS[opening][0] + end[0]
    if brackets == "{}":
        builder = _BUILDER.fullmatch(inner)
        if builder is not None and _RELATION.search(builder[1]):
            return _read(builder[1], depth + 1)
    parts = [part for part in split(inner, _COMMA) if part.strip()]
    if not parts or len(parts) > _MAX_ITEMS:
        return None
    if len(parts) == 1 and brackets in ("()", "[]", "<>"):
        return _read(parts[0], depth + 1)
    if brackets not in ("()", "[]", "[)", "(]", "{}", "<>"):
        return None
    items = _items(brackets, parts, depth, inside=True)
    rows = [item.items for item in items.items if isinstance(item, Items) and item.brackets == "[]"]
    if brackets == "[]" and len(rows) == len(items.items) and len({len(row) for row in rows}) == 1:
        body = r" \\ ".join(part.strip()[1:-1].replace(",", "&") for part in parts)
        return Matrix(tuple(rows), rf"\begin{{pmatrix}} {body} \end{{pmatrix}}")
    return items


def _read_multiple(text: str, depth: int) -> Answer | None:
    """Reads a number times a tuple of numbers: `-(1, 2)`, `2(1, 2)`."""
    match = _MULTIPLE.fullmatch(text)
    if match is None:
        return None
    factor, items = read_number(match[1] if match[1] not in "+-" else f"{match[1]}1"), _read_brackets(match[2], depth)
    if not isinstance(factor, Number) or not isinstance(items, Items) or items.brackets != "()":
        return None
    numbers = [item for item in items.items if isinstance(item, Number)]
    if len(numbers) != len(items.items):
        return None
    return Items("()", tuple(Number(factor.value * number.value) for number in numbers))


def _column(text: str, vector: Items) -> Matrix | None:
    if "{}" in vector.brackets:
        return None
    body = text[1:-1].replace(",", r" \\ ")
    return Matrix(tuple((item,) for item in vector.items), rf"\begin{{pmatrix}} {body} \end{{pmatrix}}")


def _opening(text: str) -> tuple[str | None, int]:
    for mark, bracket in ((r"\{", "{"), (r"\langle", "<"), ("(", "("), ("[", "[")):
        if text.startswith(mark):
            return bracket, len(mark)
    return None, 0


def _closing(text: str) -> tuple[str, int] | None:
    """The bracket that closes the whole text, if one does, and its place."""
    last = None
    for what, start, level in tokens(text):
        if level == 0 and start > 0:
            if last is not None or what not in (")", "]", r"\}", r"\rangle"):
                return None
            last = ({r"\}": "}", r"\rangle": ">"}.get(what, what), start)
    return last


def _read_matrix(text: str, depth: int) -> Answer | None:
    match = _ENVIRONMENT.fullmatch(text)
    if match is None or match["body"].count(r"\begin"):
        return None
    rows = [row for row in split(match["body"], _ROW) if row.strip()]
    cells = [[_read(cell, depth + 1, inside=True) for cell in split(row, _CELL)] for row in rows]
    if not cells or sum(map(len, cells)) > 4 * _MAX_ITEMS or len({len(row) for row in cells}) != 1:
        return None
    return Matrix(tuple(tuple(row) for row in cells), text)


# ---------------------------------------------------------------------------------------------------------------------
# Quantities

_CURRENCY = rf"[{DOLLAR}€£¥₹]|\b(?:USD|EUR|GBP|Rs)\b\.?"
_MONEY_FIRST = re.compile(rf"([-+]?)\s*(?:US|CA|AU)?\s*({_CURRENCY})\s*([-+]?)\s*(.+)")
_MONEY_LAST = re.compile(rf"(.*[\d}}])\s*([{DOLLAR}€£¥₹])")
_VALUE = (
    r"[-+]?\s*(?:\d[\d']*\s+\d+\s*/\s*\d+|(?:\d[\d']*\s*)?\\frac\{[^{}]*\}\{[^{}]*\}"
    r"|(?:\d[\d']*(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+)?)"
)
_NUMBER_AND_WORDS = re.compile(rf"({_VALUE})([\s-]*)([A-Za-z(][^\\=<>+{DOLLAR}]*)")
_MATH_AND_WORDS = re.compile(r"(.*(?:[\d)}]|\\pi))\s+([A-Za-z]{2,}[^\\=<>+]*)")
# Possessive, so that no text takes long.
_MATH_AND_TEXT = re.compile(
    rf"([^{TEXT_OPEN}]*[^\s(+*/=^_{TEXT_OPEN}-])\s*"
    rf"((?:{TEXT_OPEN}[^{TEXT_CLOSE}]*+{TEXT_CLOSE}\s*+(?:\^\s*+\{{\s*+-?\d\s*+\}}\s*+)?+"
    r"(?:(?:/|\\cdot|\\times)\s*+)?+)++)"
)
_MODULO = re.compile(r"(.+?)\s*\(?\s*(?:\\[pb]?mod|\bmod)\s*\{?\s*(\w+)\s*\}?\s*\)?")
_FUNCTIONS = frozenset((
    "sin", "cos", "tan", "cot", "sec", "csc", "ln", "log", "exp", "max", "min", "gcd", "lcm", "mod", "det", "arcsin",
    "arccos", "arctan", "to", "if",
))  # fmt: skip


def _read_quantity(text: str, depth: int) -> Answer | None:
    """Reads a value and what stands behind it."""
    if (match := _MONEY_FIRST.fullmatch(text)) is not None:
        name = SIGNS.get(match[2], match[2].strip(".").lower())
        sign, rest = match[1] or match[3], match[4]
        words = _NUMBER_AND_WORDS.fullmatch(rest)
        if words is None:
            return _quantity(sign + rest, name, depth)
        scale, _, more = words[3].partition(" ")
        scale = {"k": "thousand", "K": "thousand", "M": "million", "B": "billion"}.get(scale, scale)
        if scale.lower() in SCALES:
            return _quantity(sign + words[1], f"{scale} {name} {more}", depth)
        return _quantity(sign + words[1], f"{name} {words[3]}", depth)
    if (match := _MONEY_LAST.fullmatch(text)) is not None:
        return _quantity(match[1], SIGNS[match[2]], depth)
    if (match := _MODULO.fullmatch(without_text_marks(text))) is not None:
        return Quantity(_read(match[1], depth + 1), Unit(Fraction(1), (), frozenset((f"mod {match[2]}",))))
    if text.endswith("%"):
        return _quantity(text[:-1], "percent", depth)
    if (match := re.fullmatch(r"([^%]*\d)\s*%\s*([A-Za-z]+)", without_text_marks(text))) is not None:
        return _quantity(match[1], f"percent {match[2]}", depth)
    if (
        match := re.fullmatch(rf"(.+)°\s*{TEXT_OPEN}?\s*([CF]?)\s*{TEXT_CLOSE}?", text)
    ) is not None and "°" not in match[1]:
        if not re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", match[1]):
            return _quantity(match[1], {"C": "celsius", "F": "fahrenheit"}.get(match[2], "degree"), depth)
        return None
    if (match := _MATH_AND_TEXT.fullmatch(text)) is not None:
        words_behind = without_text_marks(match[2])
        if not re.search(r"(?<![\^{A-Za-z-])\d(?!\})", re.sub(r"\^\s*\{[^}]*\}", "", words_behind)):
            return _quantity(match[1], words_behind, depth)
        return None
    plain = without_text_marks(text)
    if (match := _NUMBER_AND_WORDS.fullmatch(plain)) is not None and _may_be_unit(match[2], match[3]):
        quantity = _quantity(match[1], match[3], depth)
        if len(match[3].strip(". ")) == 1:
            return Either((quantity, Expression(text)))
        return quantity
    match = _MATH_AND_WORDS.fullmatch(plain)
    letters = re.sub(r"\\[A-Za-z]+", "", match[1]) if match is not None else ""
    if match is not None and _may_be_unit(" ", match[2]) and not re.search("[A-Za-z]{3}", letters):
        return _quantity(match[1], match[2], depth)
    return None


def _may_be_unit(blank: str, words: str) -> bool:
    """Whether words behind a number say what was counted, and are no factors."""
    words = words.strip(". ")
    first = re.match(r"[A-Za-z]*", words.lstrip("(")).group()  # type: ignore[union-attr]
    if (first.lower() in _FUNCTIONS and words != "min") or re.search(
        r"(?<![\^{A-Za-z])\d(?!\})", re.sub(r"\^\s*\{\s*\d\s*\}", "", words)
    ):
        return False
    if len(words) == 1:
        return bool(blank) and words in ONE_LETTER
    unit = read_unit(words)
    if unit.dimension or first.lower() in SCALES:
        return bool(blank) or len(first) > 1 or "/" in words
    if len(first) == 1 and not (blank and first in "aA" and " " in words):
        return False
    if first.lower() in ("st", "nd", "rd", "th"):
        return True
    if re.search(r"[\^_*{}]", words):
        return False
    return bool(re.search(r"[aeiouy]", first.lower())) and (
        (bool(blank) and len(first) > 2) or len(first) > 3 or bool(blank)
    )


def _quantity(value: str, words: str, depth: int) -> Answer:
    first, _, more = words.strip().partition(" ")
    number = _read(value, depth + 1)
    if first.lower() in SCALES and isinstance(number, Number):
        number, words = Number(number.value * SCALES[first.lower()]), more
        if not words.strip():
            return number
    unit = read_unit(words)
    return Quantity(number, unit) if unit.words or unit.senses else number


# ---------------------------------------------------------------------------------------------------------------------
# Sentences

_RUN_OF_WORDS = re.compile(
    rf"{TEXT_OPEN}[^{TEXT_CLOSE}]*{TEXT_CLOSE}|(?<![\\A-Za-z])(?:[A-Za-z][a-z]+(?:['-][A-Za-z]+)*|[IaA](?![A-Za-z']))"
)
_STATES = re.compile(
    r"\b(?:has|have|had|makes?|costs?|needs?|takes?|took|earns?|spends?|weighs?)\s*(?:about|only|exactly)?\s*$|"
    r"\b(?:is|are|was|were|be|equals?|becomes|gives|totals?|of|to|be)\s*:?\s*(?:about|approximately|only|exactly)?\s*$|=\s*$"
)
# What is said before a value and may have an opposite: a loss of 5, an increase by 20%.
_SENSE = re.compile(r"\b([A-Za-z]+)(?: (?:of|by|about|to))?\s*$")
_DENIES = re.compile(r"\b(?:not|cannot|never|neither|nor)\b|n't\b", re.IGNORECASE)


def _sentence_words(text: str) -> list[str]:
    words = _RUN_OF_WORDS.findall(re.sub(r"\\begin\s*\{\w+\*?\}|\\end\s*\{\w+\*?\}|\\[A-Za-z]+", " ", text))
    every = [word for found in words for word in found.strip(TEXT_OPEN + TEXT_CLOSE).split()]
    return [word for word in every if is_word(word)]


def _may_be_sentence(answer: Answer) -> bool:
    """Whether words in what was read may belong to a sentence around a value."""
    if isinstance(answer, Quantity):
        return _may_be_sentence(answer.value)
    if isinstance(answer, Named):
        return len(_sentence_words(_RELATION.split(answer.text)[0])) >= 2
    return isinstance(answer, Words | Expression | Relation)


def _is_short(answer: Answer) -> bool:
    """Whether words may be an answer, and are no sentence without one."""
    if isinstance(answer, Expression | Relation):
        return len(_sentence_words(answer.text)) < 2 or TEXT_OPEN in answer.text
    return not isinstance(answer, Words) or len(answer.text.split()) <= 5


def _stated(sentence: str) -> Answer | None:
    """The value that a sentence states: what follows its last verb, or the last one of all."""
    ends, values = 0, list[tuple[str, Answer, str]]()
    pieces: list[tuple[str, str, str]] = []  # words before, the value, words behind
    spans = [match.span() for match in _RUN_OF_WORDS.finditer(sentence)]
    for start, end in [*spans, (len(sentence), len(sentence))]:
        run = sentence[ends:start].strip(" ,;:.!?")
        if re.search(r"\d|\\[A-Za-z]", run):
            pieces.append((sentence[:ends], run, sentence[start:]))
        ends = end
    for before, run, behind in pieces:
        word = re.match(r"[A-Za-z]+", behind)
        unit = word.group() if word is not None else ""
        known = unit.lower() in SCALES or (unit and read_unit(unit).dimension)
        values.append((before, _read(f"{run} {unit}" if known else run, 1), behind))
    if not values:
        return None
    stated = [value for value in values if _STATES.search(without_text_marks(value[0]))]
    before, value, behind = (stated or values)[-1]
    if _DENIES.search(before):
        return None
    word = _SENSE.search(without_text_marks(before))
    senses = read_unit(f"{word[1] if word is not None else ''} {' '.join(behind.split()[:3])}").senses
    if not senses:
        return value
    inner, of = (value.value, value.unit) if isinstance(value, Quantity) else (value, read_unit(""))
    return Quantity(inner, replace(of, senses=of.senses | senses))
