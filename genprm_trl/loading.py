"""Reading solutions and other records from files, `datasets` and the Hub; errors name file, row and field."""

from __future__ import annotations

import gzip
import itertools
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from genprm_trl.errors import ConfigError, DataError
from genprm_trl.formats import FORMATS, convert_row, detect_format
from genprm_trl.jsonl import as_row, decode_line, iter_written_rows, parse_json
from genprm_trl.records import RationaleRecord, Solution, Verdict
from genprm_trl.text_table import TextTable

logger = logging.getLogger(__name__)

_LINES = (".jsonl", ".ndjson")
_DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz", ".parquet")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")

# A row with its number from 1, or why it is not one.
_Rows = Iterator[tuple[int, dict[str, Any] | DataError]]


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
    name, stem, rows = _open(source, split)
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


def iter_rows(
    source: Any, *, split: str | None = None
) -> tuple[str, Iterator[tuple[int, dict[str, Any] | DataError]]]:
    """Reads the rows of any source that `load_solutions` takes as they are, for readers of other kinds of rows.

    Returns:
        The source's name for messages, and its rows with their numbers from 1; in the place of a row that cannot be
        read, the error that says why.

    Raises:
        DataError: The source is missing, unreadable or not of a known kind.
    """
    name, _, rows = _open(source, split)
    return name, rows


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


def _open(source: Any, split: str | None) -> tuple[str, str, _Rows]:
    """The source's name for messages, the stem of its rows' default ids, and its rows."""
    if not isinstance(source, str | os.PathLike):
        return _open_rows(source, split)
    path = Path(source)
    if path.is_file():
        if split not in (None, _stem(path)):
            raise DataError(f"is a single file, so there is no split {split!r} in it", file=str(path))
        return str(path), _stem(path), _file_rows(path)
    if path.is_dir():
        return _open_directory(path, split)
    if (
        isinstance(source, str)
        and _HUB_NAME.fullmatch(source)
        and not source.startswith(".")
        and not source.lower().endswith(_DATA_SUFFIXES)
    ):
        failure = "there is no such file, and loading it from the Hub as a data set failed"
        return _load_dataset(source, source.rpartition("/")[2], split, failure)
    # `exists` would hide what is wrong with a path below a file or in a closed directory.
    try:
        path.stat()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=str(path)) from None
    raise DataError("is neither a file nor a directory", file=str(path))


def _stem(path: Path) -> str:
    name = path.name
    for suffix in sorted(_DATA_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)] or "row"
    return path.stem or "row"


def _open_rows(source: Any, split: str | None) -> tuple[str, str, _Rows]:
    """Rows in memory, and the data sets of `datasets`."""
    if isinstance(source, Mapping):  # a DatasetDict, or splits by name
        chosen = _choose_split(list(source), split, "data set")
        _, _, rows = _open_rows(source[chosen], None)
        return f"split {chosen!r} of a data set", str(chosen), rows
    if not isinstance(source, Iterable) or isinstance(source, bytes):
        raise DataError(f"solutions cannot be read from a {type(source).__name__}: expected a path or a data set")
    if hasattr(source, "with_format"):
        source = source.with_format(None)  # plain Python values, whatever the caller's format
    info = getattr(source, "info", None)
    name = getattr(info, "dataset_name", None) or "data set"
    return name, name.replace(" ", "-"), _number(source, name)


def _number(rows: Iterable[Any], name: str) -> _Rows:
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Mapping):
            yield number, dict(row)
        else:
            try:
                yield number, as_row(row, file=name, row=number)
            except DataError as error:
                yield number, error


def _choose_split(splits: list[str], split: str | None, what: str, file: str | None = None) -> str:
    listed = ", ".join(str(item) for item in splits) or "none"
    if split is not None:
        if split not in splits:
            raise DataError(f"the {what} has no split {split!r}; it has: {listed}", file=file)
        return split
    if len(splits) != 1:
        raise DataError(f"the {what} has several splits, name one of: {listed}", file=file)
    return splits[0]


def _open_directory(path: Path, split: str | None) -> tuple[str, str, _Rows]:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        import datasets

        try:
            loaded = datasets.load_from_disk(str(path))
        except Exception as error:  # whatever a broken directory makes of Arrow, it is the input's fault
            raise DataError(f"cannot be read as a saved data set: {error}", file=str(path)) from None
        if isinstance(loaded, Mapping):
            chosen = _choose_split(list(loaded), split, "data set", str(path))
            return f"{path} ({chosen})", f"{path.name}-{chosen}", _number(loaded[chosen].with_format(None), str(path))
        return str(path), path.name, _number(loaded.with_format(None), str(path))
    try:
        files = sorted(item for item in path.rglob("*") if item.name.lower().endswith(_DATA_SUFFIXES))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=str(path)) from None
    if not files:
        raise DataError(
            "the directory is not a data set: neither saved by `datasets` nor holding data files "
            f"({', '.join(_DATA_SUFFIXES)})",
            file=str(path),
        )
    top = [file for file in files if file.parent == path]
    # A repository's layout, which `datasets` knows: there may be other files beside the data, as `genprm recipe` has.
    if not top or any(_SHARD.search(_stem(file)) for file in files):
        return _load_dataset(str(path), path.name, split, "cannot be read as a data set")
    by_split: dict[str, Path] = {}
    for file in top:
        other = by_split.setdefault(_stem(file), file)
        if other is not file:
            raise DataError(f"both {other.name} and {file.name} are split {_stem(file)!r}", file=str(path))
    chosen_file = by_split[_choose_split(list(by_split), split, "directory", str(path))]
    return str(chosen_file), _stem(chosen_file), _file_rows(chosen_file)


def _load_dataset(name: str, stem: str, split: str | None, failure: str) -> tuple[str, str, _Rows]:
    import datasets

    try:
        loaded = datasets.load_dataset(name, split=split)
    except Exception as error:  # no network, no such data set, no access, no such split: all end here
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{failure}: {reason[0]}", file=name) from None
    if isinstance(loaded, Mapping):
        split = _choose_split(list(loaded), split, "data set", name)
        loaded = loaded[split]
    label = f"{name} ({split})" if split else name
    return label, f"{stem}-{split}" if split else stem, _number(loaded.with_format(None), label)


# ---------------------------------------------------------------------------------------------------------------------
# Files


def _file_rows(path: Path) -> _Rows:
    name = path.name.lower()
    try:
        if name.endswith(".parquet"):
            yield from _parquet_rows(path)
        elif name.removesuffix(".gz").endswith(_LINES) or not _is_json_list(path):
            yield from _line_rows(path)
        else:
            yield from _list_rows(path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"cannot be unpacked: {error}", file=str(path)) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=str(path)) from None


def _open_bytes(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _is_json_list(path: Path) -> bool:
    with _open_bytes(path) as file:
        head: bytes = file.read(4096)
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _line_rows(path: Path) -> _Rows:
    with _open_bytes(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = decode_line(line, file=str(path), row=number)
            except DataError as error:
                yield number, error
            else:
                yield number, row


def _list_rows(path: Path) -> _Rows:
    with _open_bytes(path) as file:
        content: bytes = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"is not UTF-8 text (line {line})", file=str(path)) from None
    yield from _number(parse_json(text, file=str(path)), str(path))


def _parquet_rows(path: Path) -> _Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowException as error:
        raise DataError(f"is not a readable parquet file: {error}", file=str(path)) from None
