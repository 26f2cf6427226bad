"""Models that think before they answer, in a block that ends in `</think>`."""

from __future__ import annotations

THINK_START = "<think>"
THINK_END = "</think>"


def without_thinking(text: str) -> str:
    r"""The text after the last thinking block; the whole text if there is none.

    A model may close a block that the chat template has opened. Nothing follows a block that stays open, for example
    because tokens ran out.

    Examples:
        >>> without_thinking(r"<think>so \boxed{3}?</think>No: \boxed{1}")
        'No: \\boxed{1}'
    """
    _, end, answer = text.rpartition(THINK_END)
    if end:
        return answer if not answer.lstrip().startswith(THINK_START) else ""
    return "" if text.lstrip().startswith(THINK_START) else text
