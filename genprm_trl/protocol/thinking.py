"""Models that think before they answer, in a block that ends in `</think>`."""

from __future__ import annotations

THINK_START = "<think>"
THINK_END = "</think>"


def without_thinking(text: str) -> str:
    r"""What follows the last thinking block of a text; all of it where there is none.

    A model may close a block that the chat template has opened. A block that was opened and never closed, as when
    tokens run out, is followed by nothing.

    Examples:
        >>> without_thinking(r"<think>so \boxed{3}?</think>No: \boxed{1}")
        'No: \\boxed{1}'
    """
    _, end, answer = text.rpartition(THINK_END)
    if end:
        return answer if not answer.lstrip().startswith(THINK_START) else ""
    return "" if text.lstrip().startswith(THINK_START) else text
