"""Reading solutions and other records from files, `datasets` and the Hub; errors name file, row and field."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, Self, TypeVar

from genprm_trl.data.formats import FORMATS, detect_format, has_format, to_solutions
from genprm_trl.data.logged_samples import is_logged_sample, judged_of_sample
from genprm_trl.data.sources import open_source
from genprm_trl.errors import DataError, check_at_least, check_one_of
from genprm_trl.records import RationaleRecord, Solution, Verdict
from genprm_trl.rows.digests import IdTable
from genprm_trl.rows.jsonl import iter_written_rows

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Makes records of a row and its number. Its errors need not name file and row.
RowReader = Callable[[Mapping[str, Any], int], Iterable[Any]]
# Makes a reader that has seen no row, of the stem of default ids.
OpenReader = Callable[[str], RowReader]


class Records(Iterable[T]):
    """The records of a source. Each iteration reads the source again.

    Args:
        source: A source that `load_solutions` takes.
        open_reader: Called each time reading begins, with the stem of default ids, for the function that makes
            records of a row. Each record has an `id`, which no other record of the source may have.
        split: The split, where the source has several.
        limit: Take only the first LIMIT records. The rest is not checked.
        skip_bad_rows: Leave bad rows out, with a warning for each, instead of raising for the first.
        on_bad_row: Called with each left-out row's error.
        then: Makes other records of all those that were read, such as groups. `limit` counts what it gives.

    Attributes:
        bad_rows: Rows that were left out when it was last iterated over.

    Raises:
        ConfigError: `limit` is below 1.
    """

    def __init__(
        self,
        source: Any,
        open_reader: OpenReader,
        *,
        split: str | None = None,
        limit: int | None = None,
        skip_bad_rows: bool = False,
        on_bad_row: Callable[[DataError], None] | None = None,
        then: Callable[[Iterator[Any]], Iterator[T]] | None = None,
    ):
        check_at_least(1, limit=limit)
        self._source, self._split, self._limit = source, split, limit
        self._open_reader, self._then = open_reader, then
        self._skip_bad_rows, self._on_bad_row = skip_bad_rows, on_bad_row
        self.bad_rows = 0
        self._told = 0  # the last row of which a warning was given, in whichever reading

    def __iter__(self) -> Iterator[T]:
        records = self._read()
        return itertools.islice(records if self._then is None else self._then(records), self._limit)

    def _read(self) -> Iterator[Any]:
        self.bad_rows = 0
        name, stem, rows = open_source(self._source, self._split)
        read, ids, is_empty = self._open_reader(stem), IdTable(), True
        for number, row in rows:
            is_empty = False
            records = []
            try:
                if isinstance(row, DataError):
                    raise row
                for record in read(row, number):
                    ids.add(record.id, number)
                    records.append(record)
            except DataError as error:
                located = error.at(file=name, row=number)
                if not self._skip_bad_rows:
                    raise located from None
                if number > self._told:
                    logger.warning("Skipped a bad row. %s", located)
                    self._told = number
                self.bad_rows += 1
                if self._on_bad_row is not None:
                    self._on_bad_row(located)
            else:
                yield from records
        if not len(ids):
            raise DataError("is empty" if is_empty else "has no usable row", file=name)


def solution_reader(format: str = "auto", on_format: Callable[[str], None] | None = None) -> OpenReader:
    """Reads solutions.

    Args:
        format: A name in `formats.FORMATS`. `auto` is the one that the first row with the fields of a known one has,
            so a later row that lacks a field is told so, and not taken for another format.
        on_format: Called with the name of the format, once it is known.

    Raises:
        ConfigError: The format is unknown.
    """
    check_one_of(("auto", *FORMATS), format=format)
    is_told = False  # a source may be read more than once

    def open_reader(stem: str) -> RowReader:
        chosen = None if format == "auto" else format

        def read(row: Mapping[str, Any], number: int) -> list[Solution]:
            nonlocal chosen, is_told
            chosen = chosen or detect_format(row)
            if not is_told and on_format is not None:
                on_format(chosen)
            is_told = True
            if format == "auto" and FORMATS[chosen].is_reference and not has_format(row, chosen):
                raise DataError(
                    f"is not in the format of the first rows, {chosen}, whose solutions are right by definition; if "
                    f"this one is, too, say so with the format {chosen}",
                )
            return to_solutions(row, f"{stem}-{number}", chosen)

        return read

    return open_reader


def iter_solutions(
    source: Any,
    *,
    split: str | None = None,
    format: str = "auto",
    limit: int | None = None,
    skip_bad_rows: bool = False,
    on_bad_row: Callable[[DataError], None] | None = None,
    on_format: Callable[[str], None] | None = None,
) -> Iterator[Solution]:
    """Reads like `load_solutions`, but one solution at a time, for sources that do not fit into memory.

    A bad row raises only when it is reached. Ids are remembered, as hashes, to find duplicates.
    """
    return iter(
        Records(
            source,
            solution_reader(format, on_format),
            split=split,
            limit=limit,
            skip_bad_rows=skip_bad_rows,
            on_bad_row=on_bad_row,
        )
    )


def load_solutions(
    source: Any,
    *,
    split: str | None = None,
    format: str = "auto",
    limit: int | None = None,
    skip_bad_rows: bool = False,
    on_bad_row: Callable[[DataError], None] | None = None,
    on_format: Callable[[str], None] | None = None,
) -> list[Solution]:
    """Reads and checks a whole file or dataset of solutions, so that bad input shows before any work starts.

    Args:
        source: One of

            - a file: JSON Lines (`.jsonl`, `.ndjson`), JSON (`.json`: a list of rows, or one row a line), a table
              (`.csv`, `.tsv`; cells of steps and labels hold JSON), any of them packed (`.gz`, `.zst`), or parquet. A
              row without `id` gets `{file name}-{row}`.
            - a directory: made by `save_to_disk` of `datasets`, or with files of the kinds above, one for each split
              and named after it (`gsm8k.json`), or a copy of a dataset's repository.
            - a `datasets.Dataset`, `DatasetDict` or streaming dataset, or any iterable of mappings.
            - the name of a dataset on the Hub (`Qwen/ProcessBench`), as `owner/name`.
            - the address of a file on the web (`https://...`), which `datasets` keeps in its cache.
        split: The split, where the source has several. A single file has none but the one it is named after.
        format: The rows' format, a name in `formats.FORMATS`. `auto` takes it from the fields of the first row that
            has those of a known one.
        limit: Read only the first LIMIT solutions. The rest is not checked.
        skip_bad_rows: Leave bad rows out, with a warning for each, instead of raising for the first.
        on_bad_row: Called with each left-out row's error; `errors.append` collects them.
        on_format: Called with the name of the rows' format, once it is known.

    Returns:
        The solutions in order, at least one. Their ids are unique.

    Raises:
        DataError: The source is missing, unreadable, not of a known kind or without a usable row; or, unless
            `skip_bad_rows`, a row is bad. Names file, row (from 1; in JSON Lines the line) and field.
        ConfigError: `limit` is below 1, or the format is unknown.
    """
    return list(
        iter_solutions(
            source,
            split=split,
            format=format,
            limit=limit,
            skip_bad_rows=skip_bad_rows,
            on_bad_row=on_bad_row,
            on_format=on_format,
        )
    )


class _Readable(Protocol):
    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self: ...


RecordT = TypeVar("RecordT", bound=_Readable)


def record_reader(record_type: type[_Readable]) -> OpenReader:
    """Reads one record of this package from each row.

    Args:
        record_type: The class of the records, for example `SampledSolution`.
    """
    return lambda stem: lambda row, number: [record_type.from_dict(row)]


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
            raise error.at(file=str(path), row=number) from None
        yield record


def iter_verdicts(path: str | os.PathLike[str]) -> Iterator[Verdict]:
    """`iter_records` for a file of verdicts. Samples that the lm-evaluation-harness has logged are read, too."""
    return (verdict for verdict, _ in iter_judged(path))


def iter_judged(path: str | os.PathLike[str]) -> Iterator[tuple[Verdict, Solution | None]]:
    """The verdicts of a file, each with what it judges where the file says that.

    Args:
        path: What `genprm verify` wrote; or samples of the lm-evaluation-harness, which hold the solutions, too.

    Raises:
        DataError: The file cannot be read or a row is bad. Names file, row and field.
    """
    first_filter = None
    for number, row in iter_written_rows(path):
        judged: list[tuple[Verdict, Solution | None]] = []
        try:
            if not is_logged_sample(row):
                judged = [(Verdict.from_dict(row), None)]
            elif first_filter in (None, row["filter"]):  # every filter has the same answers again
                first_filter = row["filter"]
                judged = [*judged_of_sample(row)]
        except DataError as error:
            raise error.at(file=str(path), row=number) from None
        yield from judged


def iter_rationales(path: str | os.PathLike[str]) -> Iterator[RationaleRecord]:
    """`iter_records` for a file of rationale records."""
    return iter_records(path, RationaleRecord)
