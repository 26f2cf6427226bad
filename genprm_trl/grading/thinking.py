"""Models that think before they answer, in a block that ends in `</think>`: thoughts are neither answers nor steps."""

from __future__ import annotations

import re
from collections.abc import Iterator

THINK_START = "<think>"
THINK_END = "</think>"

# What opens and what closes a block, as the models write it that are known to think.
_TAGS = (
    (r"<think(?:ing)?\s*+>", r"</think(?:ing)?\s*+>"),
    (r"<thoughts?\s*+>", r"</thoughts?\s*+>"),
    (r"<reasoning\s*+>", r"</reasoning\s*+>"),
    (r"<seed:think>", r"</seed:think>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"◁think▷", r"◁/think▷"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    (r"<\|channel\|>analysis<\|message\|>", r"<\|channel\|>final<\|message\|>"),
)
_TAG = re.compile("|".join(f"({opening})|({closing})" for opening, closing in _TAGS), re.IGNORECASE)
# Where a tag is spoken of, it stands in quotes or before such a word.
_SPOKEN_OF = re.compile(r" (?:tags?|blocks?|tokens?)\b")


def without_thinking(text: str) -> str:
    r"""The text outside of thinking blocks; the whole text if there are none.

    Tags of other models are read like `<think>`. One in quotes or backticks, or before the word *tag*, is none.
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
    end = text[-64:].rstrip()
    tags = list(_tags(end))
    return bool(tags) and tags[-1][1] and tags[-1][0].end() == len(end)


def end_of_thinking(text: str) -> str:
    """The tag that closes the block which the text opens at its end (see `opens_thinking`); empty if it opens none.

    Examples:
        >>> end_of_thinking("<|assistant|>[THINK]"), end_of_thinking("<|START_THINKING|>"), end_of_thinking("so")
        ('[/THINK]', '<|END_THINKING|>', '')
    """
    if not opens_thinking(text):
        return ""
    *_, (tag, _, _) = _tags(text[-64:].rstrip())
    if "<|channel|>" in tag[0]:
        return "<|end|><|start|>assistant<|channel|>final<|message|>"
    if "|" in tag[0]:
        return tag[0].replace("begin", "end").replace("START", "END")
    return f"{tag[0][0]}/{tag[0][1:]}"


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
    end, thinking, first = 0, False, 0
    within: set[int] = set()  # kinds of blocks that thoughts open in turn
    for tag, opens, kind in _tags(text):
        if opens and thinking:
            within.add(kind)
        elif opens:
            outside.append((end, tag.start()))
            thinking, first = True, kind
        elif thinking and kind != first and kind in within:
            within.discard(kind)
        else:
            if not thinking:
                outside.clear()
            thinking = False
            within.clear()
        end = tag.end()
    if not thinking:
        outside.append((end, len(text)))
    return outside, thinking


def _tags(text: str) -> Iterator[tuple[re.Match[str], bool, int]]:
    """The tags of blocks, with whether each opens one, and of which kind."""
    for tag in _TAG.finditer(text):
        before, behind = text[max(tag.start() - 1, 0) : tag.start()], text[tag.end() : tag.end() + 1]
        quoted = before == behind and before in ("`", '"', "'")
        if not quoted and not _SPOKEN_OF.match(text, tag.end()):
            group = tag.lastindex or 1
            yield tag, group % 2 == 1, (group + 1) // 2


def _join(parts: list[str]) -> str:
    """Joins texts that a block stood between, so that no two words become one."""
    joined: list[str] = []
    for part in filter(None, parts):
        if joined and not joined[-1][-1].isspace() and not part[0].isspace():
            joined.append("\n")
        joined.append(part)
    return "".join(joined)
