"""Rows of files, directories and datasets on the Hub, each with its number."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from genprm_trl.errors import DataError
from genprm_trl.rows.jsonl import as_row, decode_line, parse_json

_LINES = (".jsonl", ".ndjson")


_DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz", ".parquet")


_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


_SHARD = re.compile(r"-\d{5}-of-\d{5}")


# A row with its number from 1, or why it is not one.
_Rows = Iterator[tuple[int, dict[str, Any] | DataError]]


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
    name, _, rows = open_rows(source, split)
    return name, rows


def open_rows(source: Any, split: str | None) -> tuple[str, str, _Rows]:
    """The source's name for messages, the stem of its rows' default ids, and its rows."""
    if not isinstance(source, str | os.PathLike):
        return _source_rows(source, split)
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


def _source_rows(source: Any, split: str | None) -> tuple[str, str, _Rows]:
    """Rows in memory, and the data sets of `datasets`."""
    if isinstance(source, Mapping):  # a DatasetDict, or splits by name
        chosen = _choose_split(list(source), split, "data set")
        _, _, rows = _source_rows(source[chosen], None)
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
