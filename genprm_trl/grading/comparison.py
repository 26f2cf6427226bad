"""Comparing final answers: here where no algebra is needed, else in the processes of `grading.pool`.

A text goes three ways: `grading.extract` finds the answer, `grading.answers` reads it, `grading.equality` compares.

Callers may be threads. Coroutines call it through `asyncio.to_thread`.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from genprm_trl.grading.answers import read_answer, squeezed
from genprm_trl.grading.equality import Leaf, equal
from genprm_trl.grading.extract import final_answer
from genprm_trl.grading.kinds import Answer
from genprm_trl.grading.notation import one_notation
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
            nothing, it is what the last sentence states.
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
    pair = final_answer(prediction) or "", final_answer(reference) or ""
    known = _grade_directly(*pair)
    return known if known is not None else _grade_in_worker(pair, timeout)


def grade_many(pairs: Iterable[tuple[str, str]], *, timeout: float = 5.0) -> list[Grade]:
    """Compares many predictions with their references, several at a time and equal pairs once.

    Args:
        pairs: (prediction, reference) pairs.
        timeout: Seconds that each comparison may take.

    Returns:
        A grade for each pair, in order.
    """
    _check_timeout(timeout)
    answers = [(final_answer(prediction) or "", final_answer(reference) or "") for prediction, reference in pairs]
    grades: dict[tuple[str, str], Grade] = {}
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


class _AlgebraNeeded(Exception):
    """The comparison goes on in a worker."""


def _no_algebra(a: Leaf, b: Leaf) -> bool:
    raise _AlgebraNeeded


@lru_cache(maxsize=4_096)
def _read(text: str) -> tuple[str, Answer | None]:
    """An answer in one notation, and what it is."""
    return squeezed(one_notation(text)), read_answer(text)


def _grade_directly(prediction: str, reference: str) -> Grade | None:
    """The grade where no algebra is needed, else None."""
    if not prediction.strip():
        return Grade(False, "no_answer")
    if prediction.split() == reference.split():
        return Grade(True, "ok")
    if max(len(prediction), len(reference)) > _MAX_CHARACTERS:
        return Grade(False, "too_long")
    (our_text, ours), (their_text, theirs) = _read(prediction), _read(reference)
    if our_text and our_text == their_text:
        return Grade(True, "ok")
    if ours is None:
        return Grade(False, "no_answer")
    if theirs is None:
        return Grade(False, "ok")
    try:
        return Grade(equal(ours, theirs, _no_algebra), "ok")
    except _AlgebraNeeded:
        return None


# ---------------------------------------------------------------------------------------------------------------------
# With algebra


def _grade_in_worker(pair: tuple[str, str], timeout: float) -> Grade:
    request = {"prediction": pair[0], "reference": pair[1], "timeout": timeout}
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
