"""The one-turn critique that PRMBench asks of critic models (Song et al. 2025, arXiv 2501.03124).

The words are those of its repository, without the two examples that may stand before the question.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

_PREFIX = re.compile(r"^(Step\s*\d+\.\s*|\d+\.\s*)", re.IGNORECASE)
_COMMENT = re.compile(r"(//|#).*$", re.MULTILINE)
_SCORES = re.compile(r'\{\s*"(validity|redundancy)"')


@cache
def _template() -> str:
    return (files("genprm_trl.protocol") / "prmbench_critique.txt").read_text(encoding="utf-8")


def step_scores_prompt(problem: str, steps: Sequence[str]) -> str:
    """Asks for two scores of each step. Numbers that steps bring themselves give way to those of the prompt."""
    numbered = "".join(
        f"Step {number}: {_PREFIX.sub('', step.strip())} \n\n" for number, step in enumerate(steps, start=1)
    )
    return _template().format(problem=problem, steps=numbered)


def parse_step_scores(text: str, num_steps: int) -> tuple[list[bool], list[bool] | None] | None:
    """What an answer says of each step: whether it is valid, and whether it is redundant.

    The first object with `validity` counts; a score above 0 is a yes. Redundancy is None where there is no such list.

    Args:
        text: Any text.
        num_steps: How long both lists must be.

    Returns:
        None if the scores cannot be read, or are not one for each step.
    """
    text = _COMMENT.sub("", text)
    for start in _SCORES.finditer(text):
        try:
            found, _ = json.JSONDecoder().raw_decode(text, start.start())
        except (ValueError, RecursionError):
            continue
        validity = _judgements(found.get("validity"), num_steps)
        if validity is not None:
            return validity, _judgements(found.get("redundancy"), num_steps)
    return None


def _judgements(scores: Any, num_steps: int) -> list[bool] | None:
    if not isinstance(scores, list) or len(scores) != num_steps:
        return None
    if any(isinstance(score, bool) or not isinstance(score, int | float) for score in scores):
        return None
    return None if any(math.isnan(score) for score in scores) else [score > 0 for score in scores]
