"""Comparing final answers: as texts and numbers here, and else with math-verify in the processes of `grading.pool`.

Callers may be threads. Coroutines call it through `asyncio.to_thread`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from genprm_trl.grading.extract import extract_answer, extract_boxed
from genprm_trl.grading.pool import WorkerDied, workers

GradeStatus = Literal[
    "ok",  # the answers were compared
    "no_answer",  # there is nothing in the prediction that reads as an answer
    "too_long",  # an answer of thousands of characters, compared as text only
    "timeout",  # the comparison ran into its time limit
    "error",  # the comparison ran out of memory or crashed
]

# Two answers stay below a pipe's 64 KiB even with every character escaped, so that no request waits for its reader.
_MAX_CHARACTERS = 2_500


@dataclass(frozen=True, slots=True)
class Grade:
    """The comparison of a prediction with a reference answer.

    Attributes:
        correct: Whether they are equal. False whenever the status is not `ok`, unless the texts are the same.
        status: How the comparison ended.
    """

    correct: bool
    status: GradeStatus


def answers_match(prediction: str, reference: str, *, timeout: float = 5.0) -> bool:
    r"""Whether a prediction gives the reference answer. `grade` also says why not.

    Args:
        prediction: A whole solution, or a bare answer. The answer is what `extract_answer` finds. If it finds
            nothing, it is what math-verify finds in the last line.
        reference: The right answer, bare or in a text.
        timeout: Seconds the comparison may take, measured without waiting for other callers' comparisons.

    Examples:
        >>> answers_match(r"Half of it, so the answer is $\frac{1}{2}$.", "0.5")
        True
    """
    return grade(prediction, reference, timeout=timeout).correct


def grade(prediction: str, reference: str, *, timeout: float = 5.0) -> Grade:
    """Compares a prediction with a reference answer. Arguments as for `answers_match`.

    Never raises for what the texts hold, and never takes longer than the time limit by more than the start of a
    process.

    Raises:
        ValueError: The time limit is not positive, or over a day.
        GenPRMError: The comparing process cannot be started.
    """
    _check_timeout(timeout)
    ours, theirs = _Answer.of(prediction), _Answer.of(reference)
    known = _grade_directly(ours, theirs)
    return known if known is not None else _grade_in_worker((ours, theirs), timeout)


def grade_many(pairs: Iterable[tuple[str, str]], *, timeout: float = 5.0) -> list[Grade]:
    """Compares many predictions with their references, several at a time and equal pairs once.

    Args:
        pairs: (prediction, reference) pairs.
        timeout: Seconds that each comparison may take.

    Returns:
        A grade for each pair, in order.
    """
    _check_timeout(timeout)
    answers = [(_Answer.of(prediction), _Answer.of(reference)) for prediction, reference in pairs]
    grades: dict[tuple[_Answer, _Answer], Grade] = {}
    slow = []
    for pair in dict.fromkeys(answers):
        known = _grade_directly(*pair)
        if known is None:
            slow.append(pair)
        else:
            grades[pair] = known
    if slow:
        with ThreadPoolExecutor(min(len(slow), workers().size), thread_name_prefix="grading") as threads:
            grades.update(zip(slow, threads.map(lambda pair: _grade_in_worker(pair, timeout), slow), strict=True))
    return [grades[pair] for pair in answers]


# ---------------------------------------------------------------------------------------------------------------------
# Without algebra


_NUMBER = re.compile(r"([-+]?)(?:\\?\$)?(\d{1,3}(?:,\d{3})+|\d+)?(\.\d+)?(?:[eE]([-+]?\d{1,3}))?(?:/(\d{1,30}))?\.?")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is compared: the answer's text, and whether it is prose that holds an answer or a formula."""

    text: str
    prose: bool

    @classmethod
    def of(cls, text: str) -> _Answer:
        boxed = extract_boxed(text)
        if boxed is not None:
            return cls(boxed, prose=False)
        answer = extract_answer(text)
        if answer is None:
            answer = text.strip().rpartition("\n")[2].strip()
        # "18 dollars per day" is to be searched for its number, where "x^2 + 5" is to be taken whole.
        return cls(answer, prose=len(_WORD.findall(answer[:_MAX_CHARACTERS])) >= 2)

    def number(self) -> Fraction | None:
        """The value of a plain number such as `-1,234.5`, `3/4` or `$18`."""
        text = self.text.replace(" ", "")
        match = _NUMBER.fullmatch(text) if 0 < len(text) <= 60 else None
        if match is None or not (match[2] or match[3]):
            return None
        value = Decimal(f"{match[1]}{(match[2] or '0').replace(',', '')}{match[3] or ''}e{match[4] or 0}")
        below = int(match[5] or 1)
        return Fraction(value) / below if below else None


def _grade_directly(ours: _Answer, theirs: _Answer) -> Grade | None:
    """The grade where no algebra is needed, else None."""
    if not ours.text:
        return Grade(False, "no_answer")
    if _plain(ours.text) == _plain(theirs.text):
        return Grade(True, "ok")
    if max(len(ours.text), len(theirs.text)) > _MAX_CHARACTERS:
        return Grade(False, "too_long")
    a, b = ours.number(), theirs.number()
    if a is not None and b is not None:
        if a == b:
            return Grade(True, "ok")
        if a.denominator == b.denominator == 1:
            return Grade(False, "ok")
    return None  # unequal decimals too: math-verify allows for rounding


def _plain(text: str) -> str:
    return " ".join(text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").strip(" $.").split())


# ---------------------------------------------------------------------------------------------------------------------
# With math-verify


def _grade_in_worker(pair: tuple[_Answer, _Answer], timeout: float) -> Grade:
    ours, theirs = pair
    request = {
        "prediction": [ours.text, ours.prose],
        "reference": [theirs.text, theirs.prose],
        "timeout": timeout,
    }
    try:
        reply = workers().ask(request, timeout)
    except TimeoutError:
        return Grade(False, "timeout")
    except WorkerDied:
        return Grade(False, "error")
    status: GradeStatus = reply["status"]
    return Grade(bool(reply["correct"]) and status == "ok", status)


def _check_timeout(timeout: float) -> None:
    if not 0 < timeout < 86_400:
        raise ValueError(f"the time limit must be between 0 and 86,400 seconds, not {timeout}")
