"""Rows with outcomes: whole solutions of which it is known whether their final answer is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from datasets import Dataset

from genprm_trl.data.solutions import Records, RowReader, solution_reader
from genprm_trl.errors import DataError
from genprm_trl.grading.comparison import answers_match
from genprm_trl.records import RationaleRecord, Solution


def outcome(solution: Solution) -> bool:
    """Whether the final answer of a solution is right.

    In this order: `final_answer_correct`; the answer, held against the reference; whether any step is wrong.

    Raises:
        DataError: None of them is known.
    """
    if solution.final_answer_correct is not None:
        return solution.final_answer_correct
    if solution.answer is not None:
        return answers_match("\n".join(solution.steps), solution.answer)
    if solution.label is not None:
        return solution.label < 0
    raise DataError(
        "is missing, and so are answer and label: it is not known whether the solution is right",
        field="final_answer_correct",
    )


def read_outcomes(
    source: Any,
    *,
    check: Callable[[Solution], object] | None = None,
    format: str = "auto",
    on_format: Callable[[str], None] | None = None,
    **reading: Any,
) -> Records[Solution]:
    """Solutions with their outcome, `final_answer_correct`, of rows of any form.

    Args:
        source: A source that `load_solutions` takes, or one of rationale records.
        check: Called with each solution; its `DataError` is one of the row.
        format: The rows' format, a name in `formats.FORMATS`, or `auto`.
        on_format: Called with the name of the rows' format, once it is known.
        **reading: `split`, `limit` and `skip_bad_rows` of `Records`.

    Raises:
        ConfigError: `limit` is below 1, or the format is unknown.
    """
    open_solutions = solution_reader(format, on_format)

    def open_reader(stem: str) -> RowReader:
        read_solutions = open_solutions(stem)

        def read(row: Mapping[str, Any], number: int) -> list[Solution]:
            if isinstance(row.get("solution"), Mapping):
                solutions = [_of_record(RationaleRecord.from_dict(row))]
            else:
                solutions = list(read_solutions(row, number))
            for solution in solutions:
                solution.final_answer_correct = outcome(solution)
                if check is not None:
                    check(solution)
            return solutions

        return read

    return Records(source, open_reader, **reading)


def load_outcomes(source: Any, **reading: Any) -> Dataset:
    """Reads a file of solutions with outcomes; errors name the file and its row.

    Args:
        source: A source that `load_solutions` takes, or one of rationale records.
        **reading: Arguments of `read_outcomes`.

    Returns:
        A dataset with the columns `problem`, `steps` and `final_answer_correct`.

    Raises:
        DataError: The source is unreadable or has no usable row; or, unless `skip_bad_rows`, a row is bad.
        ConfigError: `limit` is below 1, or the format is unknown.
    """
    solutions = [*read_outcomes(source, **reading)]
    return Dataset.from_list(
        [
            {"problem": each.problem, "steps": each.steps, "final_answer_correct": each.final_answer_correct}
            for each in solutions
        ]
    )


def _of_record(record: RationaleRecord) -> Solution:
    """The record's solution, with the labels of its steps."""
    solution, labels = record.solution, list(record.labels)
    if solution.label is None and (False in labels or len(labels) == len(solution.steps)):
        solution.label = labels.index(False) if False in labels else -1
    return solution
