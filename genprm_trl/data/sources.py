"""Rows of files, directories, datasets in memory and datasets on the Hub, each with its number."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from genprm_trl.data.tables import table_rows
from genprm_trl.errors import DataError, file_error
from genprm_trl.rows.jsonl import as_row, decode_line, open_bytes, parse_json

_LINES = (".jsonl", ".ndjson")
_TABLES = {".csv": ",", ".tsv": "\t"}
_PACKED = (".gz", ".zst", ".zstd")
_TEXTS = (*_LINES, ".json", *_TABLES)
_DATA_SUFFIXES = (*_TEXTS, *(text + packed for text in _TEXTS for packed in _PACKED), ".parquet")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")

# Rows with their numbers from 1. A row that cannot be read is the error that says why, so that others can follow it.
NumberedRows = Iterator[tuple[int, dict[str, Any] | DataError]]


class Source(NamedTuple):
    """An opened source of rows.

    Attributes:
        name: What messages call it.
        stem: What the ids of rows without one begin with.
        rows: The rows, to be read once.
    """

    name: str
    stem: str
    rows: NumberedRows


def open_source(source: Any, split: str | None = None) -> Source:
    """Opens anything that `load_solutions` takes.

    Args:
        source: A path, the address of a file, the name of a dataset on the Hub, a dataset, or any iterable of rows.
        split: The split, where the source has several.

    Raises:
        DataError: The source is missing, of an unknown kind or has no such split. A file's content is only read, and
            may raise, with its rows.
    """
    if not isinstance(source, str | os.PathLike):
        return _open_in_memory(source, split)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return _open_address(source)
    path = Path(source)
    if path.is_file():
        if split not in (None, _stem(path)):
            raise DataError(f"is a single file, so there is no split {split!r} in it", file=str(path))
        return _open_file(path)
    if path.is_dir():
        return _open_directory(path, split)
    if (
        isinstance(source, str)
        and _HUB_NAME.fullmatch(source)
        and not source.startswith(".")
        and not source.lower().endswith(_DATA_SUFFIXES)
    ):
        failure = "there is no such file, and loading it from the Hub as a dataset failed"
        return _load_dataset(source, source.rpartition("/")[2], split, failure)
    # `exists` would hide what is wrong with a path below a file or in a closed directory.
    try:
        path.stat()
    except OSError as error:
        raise file_error(error, "cannot be read", path) from None
    raise DataError("is neither a file nor a directory", file=str(path))


def _stem(path: Path) -> str:
    name = path.name
    for suffix in sorted(_DATA_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)] or "row"
    return path.stem or "row"


def _open_in_memory(source: Any, split: str | None) -> Source:
    """Rows in memory, and the datasets of `datasets`."""
    if isinstance(source, Mapping):  # a DatasetDict, or splits by name
        chosen = _choose_split(list(source), split, "dataset")
        return Source(f"split {chosen!r} of a dataset", str(chosen), _open_in_memory(source[chosen], None).rows)
    refuse_frame(source, "dataset")
    if not isinstance(source, Iterable) or isinstance(source, bytes):
        raise DataError(f"solutions cannot be read from a {type(source).__name__}: expected a path or a dataset")
    if hasattr(source, "with_format") and not is_transformed(source):
        source = source.with_format(None)  # plain Python values, whatever the caller's format
    info = getattr(source, "info", None)
    name = getattr(info, "dataset_name", None) or "dataset"
    return Source(name, name.replace(" ", "-"), _number(source, name))


def refuse_frame(rows: Any, name: str | None = None) -> None:
    """Refuses a data frame of pandas or another library: reading one gives the names of its columns.

    Args:
        rows: Anything that may hold rows.
        name: What errors call it.

    Raises:
        DataError: It is a data frame.
    """
    if type(rows).__name__ == "DataFrame":
        raise DataError(
            "is a DataFrame, not rows; make a dataset of it with datasets.Dataset.from_pandas(frame), or rows with "
            "frame.to_dict('records')",
            file=name,
        )


def is_transformed(rows: Any) -> bool:
    """Whether these are a `datasets.Dataset` whose rows a function makes when they are read (`with_transform`)."""
    form = getattr(rows, "format", None)
    return isinstance(form, Mapping) and form.get("type") == "custom"


def _number(rows: Iterable[Any], name: str) -> NumberedRows:
    for number, row in enumerate(rows, start=1):
        try:
            yield number, dict(row) if isinstance(row, Mapping) else as_row(row, file=name, row=number)
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


def _open_directory(path: Path, split: str | None) -> Source:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        import datasets

        try:
            loaded = datasets.load_from_disk(str(path))
        except Exception as error:  # whatever a broken directory makes of Arrow, it is the input's fault
            raise DataError(f"cannot be read as a saved dataset: {error}", file=str(path)) from None
        if isinstance(loaded, Mapping):
            chosen = _choose_split(list(loaded), split, "dataset", str(path))
            rows = _number(loaded[chosen].with_format(None), str(path))
            return Source(f"{path} ({chosen})", f"{path.name}-{chosen}", rows)
        return Source(str(path), path.name, _number(loaded.with_format(None), str(path)))
    try:
        files = sorted(item for item in path.rglob("*") if item.name.lower().endswith(_DATA_SUFFIXES))
    except OSError as error:
        raise file_error(error, "cannot be read", path) from None
    if not files:
        raise DataError(
            "the directory is not a dataset: neither saved by `datasets` nor holding data files "
            f"({', '.join(_DATA_SUFFIXES)})",
            file=str(path),
        )
    top = [file for file in files if file.parent == path]
    # A repository's layout, which `datasets` knows: there may be other files beside the data, as `genprm recipe` has.
    if not top or any(_SHARD.search(_stem(file)) for file in files):
        return _load_dataset(str(path), path.name, split, "cannot be read as a dataset")
    by_split: dict[str, Path] = {}
    for file in top:
        other = by_split.setdefault(_stem(file), file)
        if other is not file:
            raise DataError(f"both {other.name} and {file.name} are split {_stem(file)!r}", file=str(path))
    return _open_file(by_split[_choose_split(list(by_split), split, "directory", str(path))])


def _load_dataset(name: str, stem: str, split: str | None, failure: str) -> Source:
    import datasets

    try:
        loaded = datasets.load_dataset(name, split=split)
    except Exception as error:  # no network, no such dataset, no access, no such split: all end here
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{failure}: {reason[0]}", file=name) from None
    if isinstance(loaded, Mapping):
        split = _choose_split(list(loaded), split, "dataset", name)
        loaded = loaded[split]
    label = f"{name} ({split})" if split else name
    return Source(label, f"{stem}-{split}" if split else stem, _number(loaded.with_format(None), label))


def _open_address(address: str) -> Source:
    """A file on the web, which `datasets` keeps in its cache."""
    import datasets

    try:
        path = datasets.DownloadManager().download(address)
    except Exception as error:  # no network, no such file, no access: all end here
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"cannot be downloaded: {reason[0]}", file=address) from None
    return _open_file(Path(path), address)


def _open_file(path: Path, address: str | None = None) -> Source:
    """A file of rows. One that was downloaded is read as its address says, which messages call it."""
    shown = address or str(path)
    name = shown.lower()
    plain = next((name.removesuffix(packed) for packed in _PACKED if name.endswith(packed)), name)
    if name.endswith(".parquet"):
        rows = _parquet_rows(path, shown)
    elif plain.endswith(tuple(_TABLES)):
        rows = _table_rows(path, shown, _TABLES[plain[-4:]])
    elif plain.endswith(_LINES):
        rows = _line_rows(path, shown)
    elif (start := _start(path)) and start not in "[{" and not plain.endswith(".json"):
        raise DataError(
            f"is no file of rows: what is read is {', '.join(_TEXTS)}, packed (.gz, .zst) or not, and .parquet",
            file=shown,
        )
    elif start != "[":
        rows = _line_rows(path, shown)
    else:
        rows = _list_rows(path, shown)
    return Source(shown, _stem(Path(shown)), rows)


def _start(path: Path) -> str:
    """The first character that is not white space; empty if there is none."""
    with open_bytes(path) as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1].decode("latin-1")


def _table_rows(path: Path, shown: str, delimiter: str) -> NumberedRows:
    with open_bytes(path) as file:
        yield from table_rows(file, Path(shown), delimiter)


def _line_rows(path: Path, shown: str) -> NumberedRows:
    with open_bytes(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield number, decode_line(line, file=shown, row=number)
            except DataError as error:
                yield number, error


def _list_rows(path: Path, shown: str) -> NumberedRows:
    with open_bytes(path) as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"is not UTF-8 text (line {line})", file=shown) from None
    yield from _number(parse_json(text, file=shown), shown)


def _parquet_rows(path: Path, shown: str) -> NumberedRows:
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
        raise DataError(f"is not a readable parquet file: {error}", file=shown) from None
    except OSError as error:
        raise file_error(error, "cannot be read", path) from None
