"""Finding the final answer in a text."""

from __future__ import annotations

import re
from collections import deque

# Everything here takes time linear in the text, whatever the text: possessive quantifiers, one pass over braces.
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*+\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s++([^\s{}$\\]++)")
# What stands before an answer; the answer is the rest of the line.
_MARKS = (
    re.compile(r"####[^\S\n]*+(?=\S)"),
    re.compile(r"\banswer\s*+(?:is|was|:|=)\s*+:?\s*+(?=\S)", re.IGNORECASE),
    re.compile(r"^A:[^\S\n]*+(?=\S)", re.MULTILINE),
)
_SENTENCE_END = re.compile(r"\.(?=\s|$)")
_DELIMITERS = (("**", "**"), ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("`", "`"))


def extract_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` (or `\fbox{...}`) that is closed and not blank, or None."""
    opened: list[int | None] = []
    best: tuple[int, int] | None = None
    for token in _BRACES.finditer(text):
        mark = token.group()
        if mark == "}":
            start = opened.pop() if opened else None
            if start is not None and (best is None or start > best[0]) and text[start : token.start()].strip():
                best = (start, token.start())
        elif mark == "{":
            opened.append(None)
        elif mark.endswith("{") and len(mark) > 2:
            opened.append(token.end())
    if best is not None:
        return text[best[0] : best[1]].strip()
    bare = deque(_BARE_BOX.finditer(text), maxlen=1)
    return (bare[0].group(1).rstrip(".,;") or None) if bare else None


def extract_answer(text: str) -> str | None:
    r"""The final answer that a text marks as such, or None.

    Looked for in this order, the last one of its kind: `\boxed{...}`, `#### ...` (GSM8K), `the answer is ...` and
    `Answer: ...`, and a line `A: ...` (GSM8K's model solutions).

    Examples:
        >>> extract_answer("2 + 2 = 4, so the answer is **4**.")
        '4'
    """
    boxed = extract_boxed(text)
    if boxed is not None:
        return boxed
    for mark in _MARKS:
        last = deque(mark.finditer(text), maxlen=1)
        if last and (answer := _trim(text[last[0].end() :].partition("\n")[0])):
            return answer
    return None


def _trim(text: str) -> str:
    """Takes the rest of the sentence off, and emphasis and math delimiters."""
    end = _SENTENCE_END.search(text)
    text = (text[: end.start()] if end else text).strip().rstrip(",;:").strip()
    if text.count("**") == 1:  # the mark itself was emphasised: `**Answer:** 5`
        text = text.replace("**", "").strip()
    for left, right in _DELIMITERS:
        if text.startswith(left) and text.endswith(right) and len(text) > len(left) + len(right):
            inner = text[len(left) : -len(right)]
            # `$a$ and $b$` is not one formula.
            if left not in inner and right not in inner:
                text = inner.strip()
    return text
