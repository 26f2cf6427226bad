r"""One notation for the many ways in which an answer is written: LaTeX, Markdown, plain text, Unicode.

What says nothing about the value goes (`\left`, `\!`, `$`, emphasis). What is written in several ways is written in
one (`\dfrac12`, `½`, `1 \over 2`: `\frac{1}{2}`). Words of `\text{}` stand between `TEXT_OPEN` and `TEXT_CLOSE`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

TEXT_OPEN, TEXT_CLOSE = "\ue000", "\ue001"
DOLLAR = "\ue002"  # of money, not of mathematics
GROUP = "'"  # between groups of three digits

# ---------------------------------------------------------------------------------------------------------------------
# Brackets

_OPENING = {"(": ")", "[": "]", "{": "}", TEXT_OPEN: TEXT_CLOSE}
_CLOSING = frozenset(_OPENING.values())
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)


def tokens(text: str) -> Iterator[tuple[str, int, int]]:
    """The commands and characters of a text, each with its place and the depth of brackets outside of it.

    Kinds of brackets are not told apart, as in the interval `[1, 2)`.
    """
    depth = 0
    for token in _TOKEN.finditer(text):
        what = token.group()
        if (what[-1] in _CLOSING and len(what) <= 2) or what in (r"\rangle", r"\rbrace", r"\end"):
            depth = max(depth - 1, 0)
        yield what, token.start(), depth
        if (what[-1] in _OPENING and len(what) <= 2) or what in (r"\langle", r"\lbrace", r"\begin"):
            depth += 1


def split(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts between separators that stand outside of all brackets; matches of nothing are ignored."""
    outside = {start for _, start, depth in tokens(text) if depth == 0}
    parts, end = [], 0
    for match in separator.finditer(text):
        if match.start() in outside and match.start() >= end and match.group():
            parts.append(text[end : match.start()])
            end = match.end()
    return [*parts, text[end:]]


def closing(text: str, opening: int) -> int | None:
    """Where the bracket that opens at this place closes, or None."""
    depth = 0
    for place in range(opening, len(text)):
        if text[place] in _OPENING:
            depth += 1
        elif text[place] in _CLOSING:
            depth -= 1
            if depth == 0:
                return place
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Characters

_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ",
    "÷": "/", "∕": "/", "⁄": "/", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ", "∞": r"\infty ", "∅": r"\emptyset ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ",
    "∓": r"\mp ", "√": r"\sqrt ", "°": "°", "º": "°", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}",
    "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ",
    "φ": r"\phi ", "ω": r"\omega ", "μ": r"\mu ", "σ": r"\sigma ", "…": r"\ldots ", "“": '"', "”": '"', "’": "'",
    "‘": "'", "∶": ":", "：": ":", "，": ",", "⟨": r"\langle ", "⟩": r"\rangle ", "′": "'", "∠": r"\angle ",
    "△": r"\triangle ", "→": r"\to ", "∛": r"\sqrt[3]", "¢": " cents",
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_RAISED = re.compile(f"[{''.join(map(chr, _SUPERSCRIPTS))}]+")
_LOWERED = re.compile(f"[{''.join(map(chr, _SUBSCRIPTS))}]+")
_OVERLINED = re.compile("(?:\\d[\u0304\u0305])+")


def _characters(text: str) -> str:
    if text.isascii():
        return text
    text = _OVERLINED.sub(lambda m: r"\overline{" + re.sub(r"\D", "", m.group()) + "}", text)
    text = _RAISED.sub(lambda m: "^{" + m.group().translate(_SUPERSCRIPTS) + "}", text)
    text = _LOWERED.sub(lambda m: "_{" + m.group().translate(_SUBSCRIPTS) + "}", text)
    return "".join(char if char.isascii() else _character(char) for char in text)


def _character(char: str) -> str:
    if char in _SYMBOLS:
        return _SYMBOLS[char]
    same = unicodedata.normalize("NFKC", char)
    if "⁄" in same:  # ½
        above, _, below = same.partition("⁄")
        return rf"\frac{{{above}}}{{{below}}}" if below else char
    same = "".join(_SYMBOLS.get(c, c) for c in same)
    return " " if same.isspace() else same


# ---------------------------------------------------------------------------------------------------------------------
# Commands

_LAYOUT = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|hfill|hline"
    r"|rm|bf|it|sf|tt)(?![A-Za-z])\.?|\\(?:tag|label|phantom|hspace|vspace)\*?\{[^{}]*\}|(?<!\\)\\!\s*"
)
_SPACE = re.compile(r"(?<!\\)\\(?:[,;:> ~]|(?:qquad|quad|enspace|thinspace|space|newline)(?![A-Za-z]))|~|&nbsp;")
_DELIMITER = re.compile(r"(\\\\(?:\[[^\]]*\])?)|\\[()\[\]]|\$\$?")
_WORDS = re.compile(r"\\(?:text[a-z]*|mbox|hbox|mathrm|operatorname\*?|emph)\s*\{([^{}]*)\}")
_STYLED = re.compile(
    r"\\(?:mathbf|mathit|mathsf|boldsymbol|bm|underline|boxed|fbox|(?:text)?color\s*\{\w+\})\s*\{([^{}]*)\}"
)
_EMPHASIS = re.compile(r"(?<![^\s(:])(\*\*|__|`|\*)(?=\S)(.*?)(?<=\S)\1(?![\w*])")
_SAME = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\[dtc]frac(?![A-Za-z])|\\(?:nice|s)frac(?![A-Za-z])", r"\\frac"),
        (r"\\leq(?:slant|q)?(?![A-Za-z])|\\lt(?![A-Za-z])=|<=", r"\\le "),
        (r"\\geq(?:slant|q)?(?![A-Za-z])|>=", r"\\ge "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\neq(?![A-Za-z])|\\not\s*=|!=", r"\\ne "),
        (r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
        (r"\\(?:bar|overline)(?![A-Za-z])\s*(\d)", r"\\overline{\1}"),
        (r"\\bar(?![A-Za-z])", r"\\overline"),
        (r"\\l?dots(?:c|b|o)?(?![A-Za-z])|\\cdots(?![A-Za-z])|\.\.\.+", r"\\ldots "),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\lbrack(?![A-Za-z])", "["),
        (r"\\rbrack(?![A-Za-z])", "]"),
        (r"\\[lr]vert(?![A-Za-z])|\\mid(?![A-Za-z])", "|"),
        (r"\\mathbb\s*([RZNQC])(?![A-Za-z])|\\([RZNQ])(?![A-Za-z])", r"\\mathbb{\1\2}"),
        (r"\\(?=\d)", ""),
        (r"\\ast(?![A-Za-z])|(?<!\*)\*(?!\*)", r"\\cdot "),
        (r"\*\*", "^"),
        (r"\{?\s*\}?\^\s*\{?\s*\\circ\s*\}?|\\degrees?(?![A-Za-z])", "°"),
        (r"\\%", "%"),
        (rf"\^\s*\{{?\s*{TEXT_OPEN}\s*(?:st|nd|rd|th)\s*{TEXT_CLOSE}\s*\}}?", ""),
        (r"\\pounds(?![A-Za-z])", "£"),
        (r"\\euro(?![A-Za-z])", "€"),
        (r"\+/-|\+-(?=\s*[\d\\])", r"\\pm "),
        (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
        (r"(?<![A-Za-z\\])(?:infinity|infty|inf)(?![A-Za-z])", r"\\infty "),
        (r"(?<![A-Za-z\\])(sqrt|sin|cos|tan|cot|sec|csc|ln|log|arcsin|arccos|arctan)(?=[\s({\d])", r"\\\1"),
        (r"(?<=\d)\{,\}(?=\d{3}(?!\d))", GROUP),
        (r"(?<=\d)\{,\}(?=\d)", "."),  # how LaTeX writes a decimal comma
        (r"\{,\}", ","),
        (r"\^\s*([-+]?\d+)", r"^{\1}"),
        (r"_\s*(\d+)", r"_{\1}"),
    )
]
# Money as most of Europe writes it: 1.234,50 €. Both marks say which is which, and so do two points. A comma before
# two digits is enough beside every sign but the dollar's, which may be a delimiter of mathematics.
_EURO_LIKE = r"[€£¥₹]|\b(?:USD|EUR|GBP|Rs)\b\.?|\beuros?\b"
_MONEY = rf"{_EURO_LIKE}|{DOLLAR}|\b(?:dollars|pounds)\b"
_GROUPED = r"\d{1,3}(?:(?:[. ']\d{3})+(?:,|\{,\})\d\d|(?:\.\d{3}){2,})"
_CENTS = r"\d+(?:,|\{,\})\d\d"
_CONTINENTAL = [
    re.compile(pattern, re.IGNORECASE)
    for sign, amount in ((_MONEY, _GROUPED), (_EURO_LIKE, _CENTS))
    for pattern in (
        rf"((?:{sign})\s*+(?:[-+]\s*+)?)({amount})(?!\d|[.,']\d)",
        rf"()(?<![\d.,'])({amount})(?=\s*+{TEXT_OPEN}?\s*+(?:{sign}))",
    )
]
_LAKHS = re.compile(r"((?:₹|\bRs\b\.?|\bINR\b)\s*+)(\d{1,2}(?:,\d{2})+,\d{3})(?![\d,])")  # as in India: ₹1,00,000
_UNDERSCORED = re.compile(r"(?<![\w.])(\d{1,3})((?:_\d{3})+)(?![\d_])")  # as in programs: 1_234
# Equations or values, one a row.
_ROWS = re.compile(
    r"(?:\\left\s*\\\{\s*)?\\begin\s*\{(?P<name>aligned|align\*?|gathered|gather\*?|split|cases|equation\*?)\}"
    r"(?P<body>.*?)\\end\s*\{(?P=name)\}(?:\s*\\right\s*\.)?"
)
_OUTWARD = re.compile(r"(?P<left>[\[\]])(?P<inner>[^\[\]()]+)(?P<right>[\[\]])")  # as in France: ]0, 1[
_OVER = re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}")
_ROOT_OF_BRACKET = re.compile(r"\\sqrt\s*\(|\^\s*\(")
_SQUARE_ROOT = re.compile(r"\\sqrt\s*((?:\[\d+\])?)\s*(\d+(?:\.\d+)?|[A-Za-z]|\\pi)")
_FRACTION = re.compile(r"\\frac(?![A-Za-z])\s*")
_ARGUMENT = re.compile(r"\s*(\d|[A-Za-z]|\\[A-Za-z]+)")
_SLASHED = re.compile(r"(?<![\d.\w^_{/}])(\d+)/(\d+)(?![\d./])(?=\s?(?:[A-Za-z](?![A-Za-z])|\\[A-Za-z]|\())")


def one_notation(text: str) -> str:
    """Writes an answer in one notation. Takes any text."""
    text = text.replace("\n", " ").replace("\t", " ")
    text = _UNDERSCORED.sub(lambda m: m[1] + m[2].replace("_", GROUP), _ROWS.sub(_listed, text))
    text = _LAKHS.sub(lambda m: m[1] + m[2].replace(",", ""), text)
    text = _characters(_EMPHASIS.sub(r"\2", _EMPHASIS.sub(r"\2", text)))
    text = _money_and_delimiters(_LAYOUT.sub("", text.replace(r"\$", DOLLAR)))
    text = _SPACE.sub(" ", text)
    for _ in range(4):
        before, text = text, _STYLED.sub(r"\1", _WORDS.sub(_words, text))
        if text == before:
            break
    for pattern in _CONTINENTAL:
        text = pattern.sub(_with_point, text)
    for pattern, replacement in _SAME:
        text = pattern.sub(replacement, text)
    text = _OVER.sub(r"\\frac{\1}{\2}", text)
    text = _braced(text)
    text = _SQUARE_ROOT.sub(r"\\sqrt\1{\2}", text)
    text = _fractions(text)
    text = " ".join(_SLASHED.sub(r"\\frac{\1}{\2}", text).split())
    outward = _OUTWARD.fullmatch(text.strip(" .,"))
    if outward is not None and (outward["left"] == "]" or outward["right"] == "["):
        left, right = "(["[outward["left"] == "["], ")]"[outward["right"] == "]"]
        return f"{left}{outward['inner']}{right}"
    return text


def to_latex(text: str) -> str:
    """What `one_notation` wrote, as LaTeX."""
    text = text.replace(TEXT_OPEN, r"\text{").replace(TEXT_CLOSE, "}").replace(DOLLAR, "").replace(GROUP, "")
    return text.replace("°", r"^{\circ}")


def without_text_marks(text: str) -> str:
    r"""The text without the marks around the words of `\text{}`."""
    return " ".join(text.replace(TEXT_OPEN, " ").replace(TEXT_CLOSE, " ").split())


def _words(match: re.Match[str]) -> str:
    content = match[1].replace(TEXT_OPEN, " ").replace(TEXT_CLOSE, " ").replace("~", " ")
    if match.group().startswith((r"\mathrm", r"\operatorname")) and content.strip() in ("e", "i", "d"):
        return content
    return f"{TEXT_OPEN}{content}{TEXT_CLOSE}" if any(char.isalpha() for char in content) else f" {content} "


def _money_and_delimiters(text: str) -> str:
    r"""Takes delimiters of mathematics out: `$`, `\(`. A `$` before a number that none closes is money."""
    dollars = [match.end() for match in re.finditer(r"\$", text)]
    money = all(re.match(r"\s?-?[\d.]", text[end:]) for end in dollars)
    if not money and len(dollars) % 2 and re.search(r"\$\s?\d[\d,.]*", text):
        money = text.count("$") == 1

    def replace(match: re.Match[str]) -> str:
        if match[1]:  # a new row, where `\\[2pt]` is not the start of a formula
            return r"\\ "
        return DOLLAR if money and match.group() == "$" else " "

    return _DELIMITER.sub(replace, text)


def _listed(match: re.Match[str]) -> str:
    """The rows of a system of equations as a list; a function by cases stays what it is."""
    rows = [row.strip() for row in re.split(r"\\\\(?:\[[^\]]*\])?", match["body"]) if row.strip()]
    by_cases = match["name"] == "cases" and any(re.search(r"&\s*[^\s=<>]", row) for row in rows)
    if by_cases or "\\begin" in match["body"]:
        return match[0]
    listed: list[str] = []
    for row in (row.replace("&", " ").strip() for row in rows):
        if row.startswith("=") and listed:  # a calculation goes on
            listed[-1] += f" {row}"
        else:
            listed.append(row.rstrip(" ,;"))
    return ", ".join(listed)


def _with_point(match: re.Match[str]) -> str:
    """An amount with a decimal point, and nothing between thousands."""
    whole, comma, cents = match[2].replace("{,}", ",").partition(",")
    return match[1] + re.sub(r"[. ']", "", whole) + ("." if comma else "") + cents


def _braced(text: str) -> str:
    r"""Writes `\sqrt(2)` and `2^(3)` with braces."""
    while (match := _ROOT_OF_BRACKET.search(text)) is not None:
        end = closing(text, match.end() - 1)
        head = match.group()[:-1].rstrip()
        if end is None:
            return text
        text = f"{text[: match.start()]}{head}{{{text[match.end() : end]}}}{text[end + 1 :]}"
    return text


def _fractions(text: str, depth: int = 0) -> str:
    r"""Writes `\frac12` as `\frac{1}{2}`."""
    parts, end = [], 0
    for match in _FRACTION.finditer(text):
        if match.start() < end:
            continue
        place, arguments = match.end(), []
        for _ in range(2):
            while place < len(text) and text[place] == " ":
                place += 1
            if place < len(text) and text[place] == "{":
                last = closing(text, place)
                if last is None:
                    break
                argument_text = text[place + 1 : last]
                arguments.append(_fractions(argument_text, depth + 1) if depth < 8 else argument_text)
                place = last + 1
            elif (argument := _ARGUMENT.match(text, place)) is not None:
                arguments.append(argument[1])
                place = argument.end()
            else:
                break
        if len(arguments) == 2:
            parts.append(f"{text[end : match.start()]}\\frac{{{arguments[0].strip()}}}{{{arguments[1].strip()}}}")
            end = place
    return "".join(parts) + text[end:]
