"""Pairs of steps: a right and a wrong next step after the same prefix of a solution (Step-DPO, arXiv 2406.18629)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from genprm_trl.data.solutions import Records, RowReader
from genprm_trl.errors import DataError
from genprm_trl.rows.fields import (
    as_answer,
    as_filled_text,
    as_identifier,
    as_object,
    as_text,
    json_safe,
    require,
)

# What fields are called here, and in the dataset that was published with the paper.
_PROBLEM, _PREFIX = ("problem", "prompt"), ("prefix", "initial_reason_steps")


@dataclass(slots=True)
class StepPair:
    r"""Two ways to go on with a solution.

    Attributes:
        id: Unique within a file.
        problem: The problem's text.
        prefix: The right steps so far, as the policy continues them: with what stands between two steps, and with the
            heading of the next step where steps have one. Empty if the first step is the wrong one.
        chosen: The right next step, as it follows the prefix.
        rejected: The wrong next step, likewise.
        answer: The reference answer, if known.
        source: What made the pair, for audit.
    """

    id: str
    problem: str
    prefix: str
    chosen: str
    rejected: str
    answer: str | None = None
    source: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The row of this pair."""
        row: dict[str, Any] = {
            "id": self.id,
            "problem": self.problem,
            "prefix": self.prefix,
            "chosen": self.chosen,
            "rejected": self.rejected,
            "answer": self.answer,
        }
        if self.source:  # an empty object has no type in Arrow
            row["source"] = dict(self.source)
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], *, default_id: str | None = None) -> Self:
        """Checks a row and makes the pair of it.

        Rows of `xinlai/Math-Step-DPO-10K` are read, too: `prompt`, `initial_reason_steps`, `chosen`, `rejected`.

        Args:
            row: The row.
            default_id: The id of a row that has none.

        Raises:
            DataError: A field is missing, of the wrong type or empty, or the two steps are the same.
        """
        row = as_object(row, None)
        problem, prefix = (
            next((name for name in names if row.get(name) is not None), names[0]) for names in (_PROBLEM, _PREFIX)
        )
        before = as_text(require(row, prefix), prefix)
        chosen, rejected = (
            _following(before, as_filled_text(require(row, name), name)) for name in ("chosen", "rejected")
        )
        if chosen.split() == rejected.split():
            raise DataError("is the same step as 'chosen'", field="rejected")
        return cls(
            id=as_identifier(row, default_id),
            problem=as_filled_text(require(row, problem), problem),
            prefix=before,
            chosen=chosen,
            rejected=rejected,
            answer=as_answer(row.get("answer"), "answer"),
            source=dict(json_safe(as_object(row.get("source") or {}, "source"))),
        )


def _following(prefix: str, step: str) -> str:
    """The step as it follows a prefix: with a space behind a heading, which some rows leave out."""
    return step if not prefix or prefix[-1].isspace() or step[0].isspace() else f" {step}"


def load_step_pairs(source: Any, *, split: str | None = None, skip_bad_rows: bool = False) -> list[StepPair]:
    """Reads a file or dataset of pairs; errors name the file and its row.

    Args:
        source: A source that `load_solutions` takes, with rows that `StepPair.from_dict` takes.
        split: The split, where the source has several.
        skip_bad_rows: Leave bad rows out, with a warning for each, instead of raising for the first.

    Raises:
        DataError: The source is unreadable or has no usable row; or, unless `skip_bad_rows`, a row is bad.
    """

    def open_reader(stem: str) -> RowReader:
        return lambda row, number: [StepPair.from_dict(row, default_id=f"{stem}-{number}")]

    return list(Records(source, open_reader, split=split, skip_bad_rows=skip_bad_rows))
