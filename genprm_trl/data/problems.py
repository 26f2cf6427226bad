"""The input of roll-outs: problems with their answers, from the rows of any data set that has them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from genprm_trl.data.formats import convert_row, detect_format
from genprm_trl.data.sources import iter_rows
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.rows.fields import as_answer, as_filled_text
from genprm_trl.rows.id_table import TextTable

logger = logging.getLogger(__name__)

_NO_ANSWER = "must hold the reference answer, which solutions are held against"


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
        return hashlib.blake2b(json.dumps([self.text, self.answer]).encode(), digest_size=8).hexdigest()


class ProblemStream(Iterable[Problem]):
    """The problems of a file or data set, each once, read anew each time it is iterated over.

    Rows are of any format in `formats` (GSM8K, MATH, ProcessBench, ...), of which the solution is left aside, or have
    `problem` (or `question`) and `answer` alone. A problem that a row before had already is left out: many files have
    several solutions of one.

    Args:
        source, split: As for `loading.load_solutions`.
        limit: Take the first so many problems alone.
        skip_bad_rows: Leave bad rows out, with a warning, instead of raising for the first.
        need_answers: A row without the reference answer is a bad one. Otherwise its problem has an empty answer.

    Attributes:
        bad_rows: Rows that were left out when it was last iterated over.

    Raises:
        ConfigError: `limit` is below 1.
    """

    def __init__(
        self,
        source: Any,
        *,
        split: str | None = None,
        limit: int | None = None,
        skip_bad_rows: bool = False,
        need_answers: bool = True,
    ):
        if limit is not None and limit < 1:
            raise ConfigError(f"limit must be at least 1, not {limit}")
        self._source, self._split, self._limit, self._skip_bad_rows = source, split, limit, skip_bad_rows
        self._need_answers = need_answers
        self.bad_rows = 0

    def __iter__(self) -> Iterator[Problem]:
        self.bad_rows = 0
        name, rows = iter_rows(self._source, split=self._split)
        # Row numbers, by what has been seen.
        texts, with_answers, ids = TextTable(), TextTable(), TextTable()
        for number, row in rows:
            try:
                if isinstance(row, DataError):
                    raise row
                problem = _problem(row, f"problem-{number}", self._need_answers)
                with_answer = json.dumps([problem.text, problem.answer])
                if with_answer in with_answers:
                    continue
                if (earlier := texts.get(problem.text)) is not None:
                    raise DataError(
                        f"row {earlier} has the same problem with another answer than {problem.answer!r}",
                        field="answer",
                    )
                if problem.id in ids:
                    raise DataError(f"{problem.id!r} is the id of another problem already", field="id")
            except DataError as error:
                located = DataError(error.message, file=name, row=error.row or number, field=error.field)
                if not self._skip_bad_rows:
                    raise located from None
                logger.warning("Skipped a bad row. %s", located)
                self.bad_rows += 1
                continue
            texts[problem.text] = with_answers[with_answer] = ids[problem.id] = number
            yield problem
            if len(ids) == self._limit:
                return
        if not len(ids):
            raise DataError("has no usable row", file=name)


def _problem(row: Mapping[str, Any], default_id: str, need_answer: bool) -> Problem:
    for field in ("problem", "question"):
        # A row without a solution: no format of solutions knows it.
        if row.get(field) is not None and not _has_solution(row):
            answer = as_answer(row.get("answer"), "answer")
            if need_answer and answer is None:
                raise DataError(_NO_ANSWER, field="answer")
            identifier = row.get("id", row.get("unique_id"))
            return Problem(
                as_filled_text(str(identifier) if identifier is not None else default_id, "id"),
                as_filled_text(row[field], field),
                as_filled_text(answer, "answer") if need_answer else answer or "",
            )
    solutions = convert_row(row, "auto", default_id=default_id)
    if not solutions:
        raise DataError("holds no solution, and no answer to its problem")
    solution = solutions[0]
    if need_answer and (solution.answer is None or not solution.answer.strip()):
        raise DataError(_NO_ANSWER, field="answer")
    return Problem(solution.id, solution.problem, solution.answer or "")


def _has_solution(row: Mapping[str, Any]) -> bool:
    try:
        name = detect_format(row)
    except DataError:
        return False
    # GSM8K's answers hold a solution, with the answer behind a mark; other rows of two fields hold the answer alone.
    return name != "gsm8k" or "####" in str(row["answer"])
