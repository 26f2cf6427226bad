"""Splitting a solution's text into steps, without losing a character of it.

A solution comes as one text, and a process reward model judges it step by step. What counts as a step is a
convention: `Step k:` headings where the policy was made to write them (step forcing; GenPRM, arXiv 2504.00891),
paragraphs set apart by blank lines (ProcessBench, arXiv 2412.06559), or single lines (GSM8K).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from genprm_trl.grading.thinking import THINK_START, blank_thinking, is_still_thinking, without_thinking

StepStyle = Literal["auto", "step", "blank_line", "line"]
Thinking = Literal["skip", "opened", "judge"]

# A heading at the start of a line: `Step 3:`, also as models dress it up (`## Step 3:`, `**Step 3: Add up.**`,
# `\textbf{Step 3}`, `Step #3)`, `Step 3 - Add up`, `Step three:`, `Step 3/5:`, `[Step 3]`, `Step 3 (sums):`,
# `- Step 3:`, `<b>Step 3</b>:`, `Step 3` on a line of its own). `Step 3, we add`, `Step by step`, `Step 2.5 is` and
# `Step 1 - 2 = -1` are none. Possessive quantifiers keep the match linear on lines of nothing but spaces.
_NUMBER_WORDS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "eighteen|nineteen|twenty"
)
_SPACE = r"[ \t\u00a0\u202f]"
_DASH = r"(?:-{1,3}|[\u2013\u2014\u2212])"
_HEADING = re.compile(
    rf"(?:{_SPACE}|>)*+(?:[-+*\u2022]{_SPACE}++)?(?:#{{1,6}}{_SPACE}*+)?"
    r"(?:[*_]{1,3}+|\\textbf\{|<(?:b|strong|h[1-6])>)?(?P<bracket>\[)?"
    rf"step(?:{_SPACE}*+(?:\#?\d{{1,4}}|\[\d{{1,4}}\])|{_SPACE}++(?:{_NUMBER_WORDS})\b)"
    rf"(?:{_SPACE}*+(?:/|of\b){_SPACE}*+\d{{1,4}})?(?P<aside>{_SPACE}*+\([^()\n]{{1,80}}\))?"
    rf"{_SPACE}*+(?:[*_]{{1,3}}+|\}}|</(?:b|strong|h[1-6])>)?{_SPACE}*+"
    # A period behind an aside ends a sentence: `Step 1 (see above).`
    r"(?:[:\uff1a]|(?(aside)(?!)|(?:\.(?!\d)|\)))|(?(bracket)\]|(?!))"
    rf"|{_DASH}(?=\s|\Z)(?!{_SPACE}++\d[\d.,]*+{_SPACE}*+[=<>\u2260\u2264\u2265])"
    r"|(?=\r?(?:\n|\Z)))",
    re.IGNORECASE,
)
# A line that opens or closes a block of code, as in Markdown.
_FENCE = re.compile(r"[ \t]*+(?P<fence>`{3,}+|~{3,}+)(?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class WrittenStep:
    """A step of what a model wrote.

    Attributes:
        text: The step, without a thinking block that stands in it.
        end: Where it ends in the whole text: the place behind its last character.
    """

    text: str
    end: int


@dataclass(frozen=True, slots=True)
class StepSplit:
    """A text taken apart.

    Attributes:
        steps: The steps in order, without the white space around them. None is empty; there are none if the text is
            blank.
        separators: The white space before the first step, between each two, and after the last:
            `len(steps) + 1` strings.
        style: The style that was used: `step`, `blank_line` or `line`.
    """

    steps: list[str]
    separators: list[str]
    style: StepStyle

    def join(self) -> str:
        """The text that was split, character for character."""
        return join_steps(self.steps, self.separators)


def split_steps(text: str, style: StepStyle = "auto") -> StepSplit:
    r"""Splits a solution's text into steps. Nothing is lost: `split_steps(text).join() == text` for every text.

    Args:
        text: Any text.
        style: Where a step begins. `step`: at each line that opens with a heading such as `Step k:`, `Step k - ` or
            `Step one:`, which stays part of the step; text before the first heading is a separate step.
            `blank_line`: after each blank line.
            `line`: at each line. `auto`: `step` if the text begins with a heading or has two of them, else
            `blank_line` if that gives more than one step, else `line`. A fenced block of code stays whole.

    Returns:
        The steps and the white space between them.

    Raises:
        ValueError: The style is unknown.

    Examples:
        >>> split_steps("Step 1: 2 + 2 = 4\nStep 2: The answer is 4.\n").steps
        ['Step 1: 2 + 2 = 4', 'Step 2: The answer is 4.']
        >>> split_steps("First,\nadd.\n\nThen stop.")
        StepSplit(steps=['First,\nadd.', 'Then stop.'], separators=['', '\n\n', ''], style='blank_line')
    """
    if style not in get_args(StepStyle):
        raise ValueError(f"unknown step style {style!r}: expected one of {', '.join(get_args(StepStyle))}")
    lines = text.split("\n")
    if style != "auto":
        return _split(text, _step_starts(lines, style), style)
    headings = _step_starts(lines, "step")
    begins_with_heading = bool(_HEADING.match(text.lstrip()))
    # The start of the text is always among the starts, whether or not there is a heading.
    if begins_with_heading or len(headings) > 2:
        return _split(text, headings, "step")
    paragraphs = _split(text, _step_starts(lines, "blank_line"), "blank_line")
    return paragraphs if len(paragraphs.steps) > 1 else _split(text, _step_starts(lines, "line"), "line")


def written_steps(text: str, style: StepStyle = "auto", thinking: Thinking = "skip") -> list[WrittenStep]:
    r"""The steps of what a model wrote. Thoughts are none of them, and a text that ends in thoughts has none at all.

    Args:
        text: The text.
        style: Where a step begins; see `split_steps`.
        thinking: What to do with thinking blocks. `skip`: leave them out. `opened`: likewise, where the chat template
            has opened one before the text; a text that does not end it is all thinking. `judge`: take thoughts for
            steps like others.

    Raises:
        ValueError: The style is unknown.

    Examples:
        >>> [step.text for step in written_steps("<think>Is it 5? No.</think>2 + 2 = 4\nSo 4.")]
        ['2 + 2 = 4', 'So 4.']
        >>> written_steps("<think>Is it 5? Let me")
        []
    """
    judged = thinking == "judge"
    if not judged and is_still_thinking(THINK_START + text if thinking == "opened" else text):
        return []
    split = split_steps(text if judged else blank_thinking(text), style)
    steps, position = [], len(split.separators[0])
    for step, after in zip(split.steps, split.separators[1:], strict=True):
        begin, position = position, position + len(step)
        steps.append(WrittenStep(step if judged else without_thinking(text[begin:position]), position))
        position += len(after)
    return steps


def heading_of(step: str) -> str:
    """The heading that a step begins with; empty if it has none.

    Examples:
        >>> heading_of("Step 2: 7 * 2 = 14"), heading_of("So 14.")
        ('Step 2:', '')
    """
    found = _HEADING.match(step)
    return found[0] if found else ""


def join_steps(steps: Sequence[str], separators: Sequence[str] | str = "\n\n") -> str:
    """Joins steps into one text.

    Args:
        steps: The steps.
        separators: One string to set between each two, or `len(steps) + 1` strings as in `StepSplit.separators`.

    Raises:
        ValueError: The number of separators does not fit.
    """
    if isinstance(separators, str):
        return separators.join(steps)
    if len(separators) != len(steps) + 1:
        raise ValueError(f"{len(steps)} steps need {len(steps) + 1} separators, not {len(separators)}")
    return separators[0] + "".join(step + after for step, after in zip(steps, separators[1:], strict=True))


def _step_starts(lines: Sequence[str], style: StepStyle) -> list[int]:
    """Offsets at which a step may begin: always 0, and the start of each line that the style says."""
    starts, offset, after_blank = [0], 0, False
    fenced = fenced_lines(lines)
    for number, line in enumerate(lines):
        begins = number not in fenced and (
            style == "line"
            or (style == "blank_line" and after_blank)
            or (style == "step" and _HEADING.match(line) is not None)
        )
        if begins and offset > 0:
            starts.append(offset)
        after_blank = not line.strip()
        offset += len(line) + 1
    return starts


def fenced_lines(lines: Sequence[str]) -> set[int]:
    """The lines of fenced blocks of code, without those that open them. A block that is never closed is none."""
    fenced: set[int] = set()
    opened, fence = 0, ""
    for number, line in enumerate(lines):
        found = _FENCE.match(line)
        if found is None:
            continue
        if not fence:
            opened, fence = number, found["fence"]
        elif found["fence"].startswith(fence) and not found["rest"].strip():
            fenced.update(range(opened + 1, number + 1))
            fence = ""
    return fenced


def _split(text: str, starts: list[int], style: StepStyle) -> StepSplit:
    spans = []
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        piece = text[start:end]
        step = piece.strip()
        if step:
            first = start + len(piece) - len(piece.lstrip())
            spans.append((first, first + len(step)))
    ends = [0, *(end for _, end in spans)]
    begins = [*(begin for begin, _ in spans), len(text)]
    return StepSplit(
        steps=[text[begin:end] for begin, end in spans],
        separators=[text[end:begin] for end, begin in zip(ends, begins, strict=True)],
        style=style,
    )
