"""Models that think before they answer, in a block that ends in `</think>`: thoughts are neither answers nor steps."""

from __future__ import annotations

import re

THINK_START = "<think>"
THINK_END = "</think>"

# Other models' names of the same tags are read as well.
_TAG = re.compile(r"<(/?)think(?:ing)?>|\[(/?)THINK\]", re.IGNORECASE)


def without_thinking(text: str) -> str:
    r"""The text outside of thinking blocks; the whole text if there are none.

    A model may close a block that the chat template has opened: all before it is thinking. So is all after a block
    that stays open, for example because tokens ran out.

    Examples:
        >>> without_thinking(r"<think>so \boxed{3}?</think>No: \boxed{1}")
        'No: \\boxed{1}'
    """
    return _join([text[start:end] for start, end in _split(text)[0]])


def is_still_thinking(text: str) -> bool:
    """Whether the text ends inside of a thinking block: its author has not come to an answer."""
    return _split(text)[1]


def opens_thinking(text: str) -> bool:
    """Whether the text ends with the start of a block, as a chat template's opening of a turn may."""
    tags = list(_TAG.finditer(text[-64:].rstrip()))
    return bool(tags) and not (tags[-1][1] or tags[-1][2]) and tags[-1].end() == len(text[-64:].rstrip())


def blank_thinking(text: str) -> str:
    """The text with spaces in place of thinking blocks, so that every other character keeps its place.

    Without its spaces it is `without_thinking`. A block between two words becomes a new line at its end, too.
    """
    blanked: list[str] = []
    at = 0
    for start, end in _split(text)[0]:
        if start == end:
            continue
        gap = [" "] * (start - at)
        if gap and blanked and not text[at - 1].isspace() and not text[start].isspace():
            gap[-1] = "\n"
        blanked += [*gap, text[start:end]]
        at = end
    return "".join([*blanked, " " * (len(text) - at)])


def _split(text: str) -> tuple[list[tuple[int, int]], bool]:
    """Where the text outside of blocks stands, and whether a block is open at the end."""
    outside: list[tuple[int, int]] = []
    end, thinking = 0, False
    for tag in _TAG.finditer(text):
        if tag[1] or tag[2]:
            if not thinking:
                outside.clear()
            thinking = False
        elif not thinking:
            outside.append((end, tag.start()))
            thinking = True
        end = tag.end()
    if not thinking:
        outside.append((end, len(text)))
    return outside, thinking


def _join(parts: list[str]) -> str:
    """Joins texts that a block stood between, so that no two words become one."""
    joined: list[str] = []
    for part in filter(None, parts):
        if joined and not joined[-1][-1].isspace() and not part[0].isspace():
            joined.append("\n")
        joined.append(part)
    return "".join(joined)
