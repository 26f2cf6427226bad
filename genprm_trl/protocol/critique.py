"""The one-turn critique that ProcessBench asks of critic models (Zheng et al. 2024, arXiv 2412.06559, section 4).

BIG-Bench Mistake is asked in the same form. Its tasks are not mathematical, so the words differ.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Literal

_BOX = "\\boxed{"


# What asks for a critique: a benchmark, after which its template is named.
CritiqueTask = Literal["processbench", "bigbench_mistake"]


@cache
def critique_template(asked: CritiqueTask = "processbench") -> str:
    """The benchmark's prompt, with the `str.format` fields `problem` and `tagged_response`.

    That of ProcessBench is the benchmark's, byte for byte.
    """
    return (files("genprm_trl.protocol") / f"{asked}_critique.txt").read_text(encoding="utf-8")


def tag_paragraphs(steps: Sequence[str], first: int = 0) -> str:
    """Steps enclosed as `<paragraph_i>` elements, joined by blank lines, numbered from `first`."""
    return "\n\n".join(
        f"<paragraph_{number}>\n{step}\n</paragraph_{number}>" for number, step in enumerate(steps, start=first)
    )


def critique_prompt(problem: str, steps: Sequence[str], asked: CritiqueTask = "processbench") -> str:
    """The user turn of the benchmark for one solution; paragraphs are numbered from 0."""
    return critique_template(asked).format(problem=problem, tagged_response=tag_paragraphs(steps))


def parse_critique(text: str, num_steps: int | None = None) -> int | None:
    r"""The index in the last `\boxed{}`: -1 for no error, None where it cannot be read as an integer.

    Args:
        text: Any text.
        num_steps: If given, an index outside of [-1, num_steps) is unreadable as well. The benchmark itself does not
            check this (such an index is then simply wrong).
    """
    answer = last_box(text).strip()
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", answer):
        return None
    index = int(answer)
    return index if num_steps is None or -1 <= index < num_steps else None


def last_box(text: str) -> str:
    r"""What the last match of the benchmark's `\boxed\{([^}]*)\}` holds; empty for none.

    Plain searches, since that expression takes quadratic time on boxes that never close.
    """
    content = ""
    start = text.find(_BOX)
    while start >= 0:
        start += len(_BOX)
        end = text.find("}", start)
        if end < 0:
            break
        content = text[start:end]
        start = text.find(_BOX, end)
    return content


def vote(predictions: Iterable[int | None]) -> int | None:
    """The most common readable prediction of a solution's samples; the one seen first wins a tie; None for none."""
    counts = Counter(prediction for prediction in predictions if prediction is not None)
    return counts.most_common(1)[0][0] if counts else None
