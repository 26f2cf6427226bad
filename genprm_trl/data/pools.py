"""Pools of candidates for Best-of-N: several solutions of each problem, which are right, and which vote alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from genprm_trl.data.solutions import Records, RowReader, solution_reader
from genprm_trl.data.steps import join_steps
from genprm_trl.errors import DataError, check_at_least
from genprm_trl.grading.comparison import answers_match
from genprm_trl.grading.extract import extract_answer
from genprm_trl.records import Solution


@dataclass
class Pool:
    """The candidates of one problem.

    Attributes:
        id: Unique within the data.
        problem: The problem's text.
        answer: The reference answer; None where unknown.
        ids: The id of each candidate.
        steps: The steps of each candidate. Shape (M, steps).
        correct: Whether each candidate's final answer is right; empty where that is not known of each. Shape (M,).
        votes: The number of each candidate's answer, equal for equivalent ones; None: no answer. Shape (M,).
    """

    id: str
    problem: str
    answer: str | None
    ids: list[str] = field(default_factory=list)
    steps: list[list[str]] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    votes: list[int | None] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """The candidates, a line a step."""
        return [join_steps(steps, "\n") for steps in self.steps]

    def solutions(self) -> list[Solution]:
        """The candidates as solutions to judge."""
        correct: Sequence[bool | None] = self.correct or [None] * len(self.ids)
        return [
            Solution(id, self.problem, steps, self.answer, right, extra={"problem_id": self.id})
            for id, steps, right in zip(self.ids, self.steps, correct, strict=True)
        ]


def read_pools(
    source: Any,
    *,
    split: str | None = None,
    format: str = "auto",
    limit: int | None = None,
    skip_bad_rows: bool = False,
    need_answers: bool = True,
    on_format: Callable[[str], None] | None = None,
) -> list[Pool]:
    """Reads pools and grades their candidates.

    Args:
        source: Solutions in any format that `load_solutions` knows, with several of each problem. In the format
            `candidates` a row holds all of a problem: `problem` (or `question`), `answer` and `candidates`, a list of
            texts, or of objects with `steps` or `text` and, if it is known, `final_answer_correct`.
        split: The split, where the source has several.
        format: A name in `formats.FORMATS`, or `auto`.
        limit: Take only the first LIMIT problems.
        skip_bad_rows: Leave bad rows out, with a warning for each, instead of raising for the first.
        need_answers: Refuse a row without the reference answer. Otherwise such candidates vote, and whether they are
            right is known only where the row says it.
        on_format: Called with the name of the rows' format, once it is known.

    Returns:
        The pools in order, at least one.

    Raises:
        DataError: The file cannot be read or a row is unusable; names file, row and field.
        ConfigError: `limit` is below 1.
    """
    check_at_least(1, limit=limit)
    pools: dict[str, Pool] = {}
    graded: dict[str, list[bool | None]] = {}
    open_reader = partial(_open_reader, need_answers, format, on_format)
    for solution in Records[Solution](source, open_reader, split=split, skip_bad_rows=skip_bad_rows):
        if solution.problem not in pools and len(pools) == limit:
            continue  # a later row may hold more candidates of a problem that is taken
        problem_id = str(solution.extra.get("problem_id", solution.id))
        pool = pools.setdefault(solution.problem, Pool(problem_id, solution.problem, solution.answer))
        pool.ids.append(solution.id)
        pool.steps.append(solution.steps)
        graded.setdefault(solution.problem, []).append(solution.final_answer_correct)
    for problem, pool in pools.items():
        known = graded[problem]
        if pool.answer is not None:
            pool.correct, pool.votes = grade_pool(pool.texts, pool.answer, known)
        else:
            pool.correct = [right for right in known if right is not None] if None not in known else []
            pool.votes = vote_groups([extract_answer(text) for text in pool.texts])
    return list(pools.values())


def _open_reader(need_answers: bool, format: str, on_format: Callable[[str], None] | None, stem: str) -> RowReader:
    read = solution_reader(format, on_format)(stem)
    answers: dict[str, str | None] = {}

    def read_candidates(row: Mapping[str, Any], number: int) -> Iterator[Solution]:
        for solution in read(row, number):
            if solution.answer is None and need_answers:
                raise DataError("is missing: candidates are held against it", field="answer")
            earlier = answers.setdefault(solution.problem, solution.answer)
            if earlier != solution.answer:
                raise DataError(f"is {solution.answer!r}, and an earlier row has {earlier!r}", field="answer")
            yield solution

    return read_candidates


def vote_groups(answers: Sequence[str | None]) -> list[int | None]:
    """Which answers vote together, found without a reference and whatever the order of the answers.

    An answer may equal two that differ, as 50% equals 50 and 0.5. It votes with the shorter one.

    Returns:
        The number of each answer, from 0 in the order of first appearance; None where there is none. Shape (M,).

    Examples:
        >>> vote_groups(["0.5", None, "3", "1/2"])
        [0, None, 1, 0]
    """
    leaders: list[str] = []
    leader_of: dict[str, str] = {}
    for answer in sorted({answer for answer in answers if answer is not None}, key=lambda text: (len(text), text)):
        leader = next((other for other in leaders if answers_match(answer, other)), None)
        if leader is None:
            leaders.append(answer)
        leader_of[answer] = leader if leader is not None else answer
    numbers: dict[str, int] = {}
    return [None if answer is None else numbers.setdefault(leader_of[answer], len(numbers)) for answer in answers]


def grade_pool(
    texts: Sequence[str], answer: str, known: Sequence[bool | None] | None = None
) -> tuple[list[bool], list[int | None]]:
    """Which of a problem's solutions are right, and which vote alike.

    Args:
        texts: The solutions.
        answer: The reference answer.
        known: What is known of each already.

    Returns:
        Whether each is right, and the number of its answer: 0 for all that are right, others for equivalent wrong
        ones, None where a wrong one has no answer.
    """
    known = [None] * len(texts) if known is None else known
    correct = [answers_match(t, answer) if k is None else k for t, k in zip(texts, known, strict=True)]
    wrong = vote_groups([None if right else extract_answer(t) for t, right in zip(texts, correct, strict=True)])
    return correct, [0 if right else v if v is None else v + 1 for v, right in zip(wrong, correct, strict=True)]
