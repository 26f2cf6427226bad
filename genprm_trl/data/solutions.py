"""Reading solutions and other records from files, `datasets` and the Hub; errors name file, row and field."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, Self, TypeVar

from genprm_trl.data.formats import FORMATS, convert_row, detect_format
from genprm_trl.data.sources import open_rows
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.records import RationaleRecord, Solution, Verdict
from genprm_trl.rows.id_table import TextTable
from genprm_trl.rows.jsonl import iter_written_rows

logger = logging.getLogger(__name__)


def load_solutions(
    source: Any,
    *,
    split: str | None = None,
    format: str = "auto",
    limit: int | None = None,
    skip_bad_rows: bool = False,
    on_bad_row: Callable[[DataError], None] | None = None,
) -> list[Solution]:
    """Reads and checks a whole file or data set of solutions, so that bad input shows before any work starts.

    Args:
        source: One of

            - a file: JSON Lines (`.jsonl`, `.ndjson`), JSON (`.json`: a list of rows, or one row a line), either of
              them gzipped (`.gz`), or parquet. A row without `id` gets `{file name}-{row}`.
            - a directory: made by `save_to_disk` of `datasets`, or with files of the kinds above, one for each split
              and named after it (`gsm8k.json`), or a copy of a data set's repository.
            - a `datasets.Dataset`, `DatasetDict` or streaming data set, or any iterable of mappings.
            - the name of a data set on the Hub (`Qwen/ProcessBench`), as `owner/name`.
        split: The split, where the source has several. A single file has none but the one it is named after.
        format: The rows' format, a name in `formats.FORMATS`. `auto` takes it from the fields of the first row that
            has those of a known one.
        limit: Read no more than so many solutions; what follows is not checked.
        skip_bad_rows: Leave bad rows out, with a warning for each, instead of raising for the first.
        on_bad_row: Called with each left-out row's error; `errors.append` collects them.

    Returns:
        The solutions in order, at least one. Their ids are unique.

    Raises:
        DataError: The source is missing, unreadable, not of a known kind or without a usable row; or, unless
            `skip_bad_rows`, a row is bad. Names file, row (from 1; in JSON Lines the line) and field.
        ConfigError: `limit` is below 1, or the format is unknown.
    """
    return list(
        iter_solutions(
            source, split=split, format=format, limit=limit, skip_bad_rows=skip_bad_rows, on_bad_row=on_bad_row
        )
    )


def iter_solutions(
    source: Any,
    *,
    split: str | None = None,
    format: str = "auto",
    limit: int | None = None,
    skip_bad_rows: bool = False,
    on_bad_row: Callable[[DataError], None] | None = None,
) -> Iterator[Solution]:
    """As `load_solutions`, one solution at a time, for sources that do not fit into memory.

    A bad row raises only when it is reached. Ids are remembered, as hashes, to find duplicates.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, not {limit}")
    if format != "auto" and format not in FORMATS:
        raise ConfigError(f"unknown row format {format!r}; choose auto or one of {', '.join(FORMATS)}")
    solutions = _iter_checked(source, split, format, skip_bad_rows, on_bad_row)
    return solutions if limit is None else itertools.islice(solutions, limit)


class SolutionStream:
    """The solutions of a source, read anew each time it is iterated over; arguments as for `load_solutions`.

    Attributes:
        bad_rows: Rows that were left out when it was last iterated over.
    """

    def __init__(
        self,
        source: Any,
        *,
        split: str | None = None,
        format: str = "auto",
        limit: int | None = None,
        skip_bad_rows: bool = False,
    ):
        self._arguments = {
            "source": source, "split": split, "format": format, "limit": limit, "skip_bad_rows": skip_bad_rows
        }  # fmt: skip
        self.bad_rows = 0

    def __iter__(self) -> Iterator[Solution]:
        self.bad_rows = 0
        return iter_solutions(**self._arguments, on_bad_row=self._count)

    def _count(self, error: DataError) -> None:
        self.bad_rows += 1


def _iter_checked(
    source: Any,
    split: str | None,
    format: str,
    skip_bad_rows: bool,
    on_bad_row: Callable[[DataError], None] | None,
) -> Iterator[Solution]:
    name, stem, rows = open_rows(source, split)
    first_row_of = TextTable()
    seen = False
    for number, row in rows:
        seen = True
        try:
            if isinstance(row, DataError):
                raise row
            if format == "auto":
                format = detect_format(row)
            solutions = convert_row(row, format, default_id=f"{stem}-{number}")
            for solution in solutions:
                if (earlier := first_row_of.get(solution.id)) is not None:
                    raise DataError(f"{solution.id!r} is the id of row {earlier} already", field="id")
            for solution in solutions:
                first_row_of[solution.id] = number
        except DataError as error:
            located = DataError(error.message, file=name, row=error.row or number, field=error.field)
            if not skip_bad_rows:
                raise located from None
            logger.warning("Skipped a bad row. %s", located)
            if on_bad_row is not None:
                on_bad_row(located)
        else:
            yield from solutions
    if not first_row_of:
        raise DataError("has no usable row" if seen else "is empty", file=name)


class _Readable(Protocol):
    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self: ...


RecordT = TypeVar("RecordT", bound=_Readable)


def iter_records(path: str | os.PathLike[str], record_type: type[RecordT]) -> Iterator[RecordT]:
    """Reads a JSON Lines file of records that this package wrote. A last line torn by a kill is left out.

    Args:
        path: The file.
        record_type: `Solution`, `Verdict` or `RationaleRecord`.

    Raises:
        DataError: The file cannot be read or a row is bad. Names file, row and field.
    """
    for number, row in iter_written_rows(path):
        try:
            record = record_type.from_dict(row)
        except DataError as error:
            raise DataError(error.message, file=str(path), row=number, field=error.field) from None
        yield record


def iter_verdicts(path: str | os.PathLike[str]) -> Iterator[Verdict]:
    """`iter_records` for a file of verdicts."""
    return iter_records(path, Verdict)


def iter_rationales(path: str | os.PathLike[str]) -> Iterator[RationaleRecord]:
    """`iter_records` for a file of rationale records."""
    return iter_records(path, RationaleRecord)


# ---------------------------------------------------------------------------------------------------------------------
# Sources


# ---------------------------------------------------------------------------------------------------------------------
# Files
