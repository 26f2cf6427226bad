"""What MR-GSM8K asks of critics, and of judges of their explanations (Zeng et al. 2023, arXiv 2312.17080).

The words are those of its repository, zero-shot. The request to a judge greets GPT-4 by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_PART = re.compile(r"(Final Judge?ment|First Error Step|Error Analysis)\s*:")
_DECISION = re.compile(r"Final Decision\s*:")
_WORD = re.compile(r"\b(?:((?:not|partially|partly)\s+correct|incorrect|wrong)|correct)\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,9}")


@dataclass(frozen=True, slots=True)
class SolutionCritique:
    """What a critic says of a solution.

    Attributes:
        is_right: Whether it judges the solution right.
        first_error_step: The first wrong step, counted from 1; None where it names none.
        reason: Why that step is wrong; empty where it says nothing.
    """

    is_right: bool
    first_error_step: int | None
    reason: str

    @property
    def prediction(self) -> int:
        """The first wrong step, counted from 0; -1 for none, and -2, which is no step's place, for an unnamed one."""
        if self.is_right:
            return -1
        return -2 if not self.first_error_step else self.first_error_step - 1


@cache
def _template(name: str) -> str:
    return (files("genprm_trl.protocol") / f"mr_gsm8k_{name}.txt").read_text(encoding="utf-8")


def solution_critique_prompt(problem: str, steps: Sequence[str]) -> str:
    """Asks a critic whether a solution is right, where it goes wrong, and why."""
    return _template("critique").format(problem=problem, steps="\n".join(steps))


def parse_solution_critique(text: str) -> SolutionCritique | None:
    """Reads a critic's answer; None where it does not say whether the solution is right.

    "Incorrect" is wrong, and "Step 3" is 3.
    """
    text = text.replace("*", "")
    parts: dict[str, str] = {}
    found = list(_PART.finditer(text))
    for index, part in enumerate(found):
        end = found[index + 1].start() if index + 1 < len(found) else len(text)
        parts.setdefault(part[1][:9], text[part.end() : end].strip())
    is_right = says_correct(parts.get("Final Jud", ""))
    if is_right is None:
        return None
    number = _NUMBER.search(parts.get("First Err", ""))
    return SolutionCritique(is_right, int(number[0]) if number else None, parts.get("Error Ana", ""))


def explanation_prompt(
    problem: str, steps: Sequence[str], first_error_step: int, first_error_reason: str, explanation: str
) -> str:
    """Asks a judge whether an explanation of a first error is right.

    Args:
        problem: The problem.
        steps: The steps of the wrong solution.
        first_error_step: Its first wrong step, counted from 1.
        first_error_reason: What people say is wrong there.
        explanation: What is to be judged.
    """
    return _template("explanation").format(
        problem=problem,
        steps=list(steps),
        first_error_step=first_error_step,
        first_error_reason=first_error_reason,
        explanation=explanation,
    )


def parse_decision(text: str) -> bool | None:
    """Whether a judge accepts the explanation: the word behind the last `Final Decision:`; None for neither."""
    *_, decision = _DECISION.split(text.replace("*", ""))
    return says_correct(decision) if _DECISION.search(text.replace("*", "")) else None


def says_correct(text: str) -> bool | None:
    """Whether the first word of the kind says right or wrong; None where there is none.

    Examples:
        >>> says_correct("[Correct]"), says_correct("Incorrect"), says_correct("N/A")
        (True, False, None)
    """
    word = _WORD.search(text)
    return None if word is None else word[1] is None
