"""A format reward: is the completion written in numbered steps?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from genprm_trl.data.steps import Thinking, written_steps
from genprm_trl.rewards.texts import completion_text

_NUMBER = re.compile(r"\W*step\W*(\d+)", re.IGNORECASE)


def step_format_reward(completions: Sequence[Any], *, thinking: Thinking = "skip", **kwargs: Any) -> list[float]:
    r"""The share of a completion's steps that are in order: `Step 1:`, `Step 2:`, ... with text after each heading.

    A policy that is verified step by step has to write steps. Text before the first heading counts as a step out of
    order, and so does a number that is skipped or repeated, or a heading with nothing after it. Thoughts are no steps,
    and a completion that ends in thoughts has none.

    Args:
        completions: Texts, or lists of messages.
        thinking: What to do with thinking blocks; see `data.steps.written_steps`. `functools.partial` sets it.
        **kwargs: What else a trainer passes; not used.

    Example:
        >>> from genprm_trl.rewards import step_format_reward
        >>> step_format_reward(["Step 1: 2 + 2 = 4\nStep 2: The answer is 4.", "It is 4."])
        [1.0, 0.0]
    """
    return [
        _share_in_order([step.text for step in written_steps(completion_text(completion), "step", thinking)])
        for completion in completions
    ]


def _share_in_order(steps: Sequence[str]) -> float:
    in_order = 0
    for step in steps:
        heading = _NUMBER.match(step)
        if heading and int(heading[1]) == in_order + 1 and step[heading.end() :].strip(" \t\n:.*_)-\u2013\u2014"):
            in_order += 1
    return in_order / len(steps) if steps else 0.0
