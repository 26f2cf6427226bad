"""The input of the data stages: problems with their answers, and solutions, those of one problem together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from genprm_trl.data.formats import FORMATS, detect_format, to_solutions
from genprm_trl.data.solutions import Records, RowReader, solution_reader
from genprm_trl.errors import DataError, check_one_of
from genprm_trl.records import Solution
from genprm_trl.rows.digests import content_digest, text_hash
from genprm_trl.rows.fields import as_answer, as_filled_text, as_identifier

_NO_ANSWER = (
    "must hold the reference answer, which solutions are held against (with --format math the box of a reference "
    "solution is taken for it)"
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem and its reference answer.

    Attributes:
        id: Unique within the input.
        text: The problem's text.
        answer: The reference answer; empty where unknown.
    """

    id: str
    text: str
    answer: str

    @property
    def digest(self) -> str:
        """A short hash of text and answer."""
        return content_digest([self.text, self.answer])


@dataclass(frozen=True, slots=True)
class SolutionGroup:
    """Solutions of one problem, at least one, all with the same reference answer."""

    solutions: tuple[Solution, ...]

    @property
    def id(self) -> str:
        """The first solution's id, which no other group has."""
        return self.solutions[0].id

    @property
    def problem(self) -> str:
        """The problem's text."""
        return self.solutions[0].problem

    @property
    def answer(self) -> str:
        """The reference answer."""
        assert self.solutions[0].answer is not None  # see `read_groups`
        return self.solutions[0].answer

    @property
    def digest(self) -> str:
        """A short hash of everything that labels are made from."""
        return content_digest([self.answer, *([s.id, s.digest, s.final_answer_correct] for s in self.solutions)])


def read_problems(
    source: Any,
    *,
    split: str | None = None,
    format: str = "auto",
    limit: int | None = None,
    skip_bad_rows: bool = False,
    need_answers: bool = True,
) -> Records[Problem]:
    """The problems of a file or dataset, each once.

    Rows are of any format in `formats` (GSM8K, MATH, ProcessBench, ...), of which the solution is left aside, or have
    `problem` (or `question`) and `answer` alone. A problem that a row before had already is left out: many files have
    several solutions of one.

    Args:
        source: A source that `load_solutions` takes.
        split: The split, where the source has several.
        format: A name in `formats.FORMATS`, or `auto`. `math` finds the answer in a reference solution.
        limit: Take only the first LIMIT problems.
        skip_bad_rows: Leave bad rows out, with a warning, instead of raising for the first.
        need_answers: A row without the reference answer is a bad one. Otherwise its problem has an empty answer.

    Raises:
        ConfigError: `limit` is below 1, or the format is unknown.
    """
    check_one_of(("auto", *FORMATS), format=format)
    chosen = None if format == "auto" else format

    def open_reader(stem: str) -> RowReader:
        seen: dict[int, tuple[int, int]] = {}  # the row and the hash of the answer, by the hash of the text

        def read(row: Mapping[str, Any], number: int) -> Iterator[Problem]:
            problem = _problem(row, f"problem-{number}", need_answers, chosen)
            key, answer = text_hash(problem.text), text_hash(problem.answer)
            if key not in seen:
                yield problem
                seen[key] = number, answer  # not before its id is known to be new
            elif seen[key][1] != answer:
                raise DataError(
                    f"row {seen[key][0]} has the same problem with another answer than {problem.answer!r}",
                    field="answer",
                )

        return read

    return Records(source, open_reader, split=split, limit=limit, skip_bad_rows=skip_bad_rows)


def _problem(row: Mapping[str, Any], default_id: str, need_answer: bool, format: str | None = None) -> Problem:
    field = next((name for name in ("problem", "question") if row.get(name) is not None), None)
    if field is None or format is not None or _holds_solution(row):
        solutions = to_solutions(row, default_id, format)
        if not solutions:
            raise DataError("holds no solution, and no answer to its problem")
        id, text, answer = solutions[0].id, solutions[0].problem, solutions[0].answer
    else:
        answer = as_answer(row.get("answer"), "answer")
        if answer is not None and field == "question":
            answer = answer.rpartition("####")[2].strip()  # GSM8K's answers hold a solution before the mark
        id = as_identifier(row, default_id, "unique_id" if row.get("id") is None else "id")
        text = as_filled_text(row[field], field)
    if need_answer and (answer is None or not answer.strip()):
        raise DataError(_NO_ANSWER, field="answer")
    return Problem(id, text, answer or "")


def _holds_solution(row: Mapping[str, Any]) -> bool:
    try:
        name = detect_format(row)
    except DataError:
        return False
    # GSM8K's answers hold a solution, with the answer behind a mark; other rows of two fields hold the answer alone.
    return name != "candidates" and (name != "gsm8k" or "####" in str(row["answer"]))


GroupT = TypeVar("GroupT", bound=SolutionGroup)


def check_answer(solution: Solution) -> None:
    """Refuses a solution without the reference answer.

    Raises:
        DataError: There is none.
    """
    if solution.answer is None:
        raise DataError(
            f"solution '{solution.id}' has no reference answer, which its rollouts are held against", field="answer"
        )


def read_groups(
    source: Any,
    *,
    split: str | None = None,
    format: str = "auto",
    limit: int | None = None,
    skip_bad_rows: bool = False,
    on_format: Callable[[str], None] | None = None,
    check: Callable[[Solution], None] | None = None,
    check_row: Callable[[Solution], object] = check_answer,
    group: type[GroupT] = SolutionGroup,  # type: ignore[assignment]
) -> Records[GroupT]:
    """The solutions of a file or dataset, those of one problem together.

    Solutions of one problem that stand together, as `genprm rollout` writes them, make a group.

    Args:
        source: A source that `load_solutions` takes.
        split: The split, where the source has several.
        format: A name in `formats.FORMATS`, or `auto`.
        limit: Take only the first LIMIT problems.
        skip_bad_rows: Leave bad rows out, with a warning, instead of raising for the first.
        on_format: Called with the name of the rows' format, once it is known.
        check: Called with each solution up to the limit. What it raises comes through, also with `skip_bad_rows`.
        check_row: Called with each solution; its `DataError` is one of the row. By default each needs its reference
            answer.
        group: The class of the groups.

    Raises:
        ConfigError: `limit` is below 1, or the format is unknown.
    """
    open_solutions = solution_reader(format, on_format)

    def open_reader(stem: str) -> RowReader:
        read = open_solutions(stem)

        def read_checked(row: Mapping[str, Any], number: int) -> Iterator[Solution]:
            for solution in read(row, number):
                check_row(solution)
                yield solution

        return read_checked

    def grouped(solutions: Iterator[Solution]) -> Iterator[GroupT]:
        for _, each in itertools.groupby(solutions, key=lambda solution: (solution.problem, solution.answer)):
            found = group(tuple(each))
            if check is not None:
                for solution in found.solutions:
                    check(solution)
            yield found

    return Records(source, open_reader, split=split, limit=limit, skip_bad_rows=skip_bad_rows, then=grouped)
