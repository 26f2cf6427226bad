"""JSON Lines files that survive a kill: appending a line at a time, resuming, and replacing a whole file at once.

A file is written by one process at a time and only ever grows by whole lines. A kill can leave a torn last line;
readers skip it and the next writer removes it, so no complete line is ever lost.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import logging
import math
import os
import sys
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from genprm_trl.errors import DataError, file_error
from genprm_trl.rows.fields import kind
from genprm_trl.rows.outputs import refuse_input, replacing
from genprm_trl.rows.secrets import mask

try:
    import fcntl
except ImportError:  # not a POSIX system: files are then not guarded against a second writer
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_SYNC_EVERY_SECONDS = 2.0
_OPENINGS = 100


class Record(Protocol):
    """Anything with `to_dict`: the records of `records`."""

    def to_dict(self) -> dict[str, Any]:
        """The record as a row."""
        ...


def encode_line(record: Record | Mapping[str, Any]) -> bytes:
    """A record or plain row as one UTF-8 line of strict JSON.

    NumPy scalars and arrays are taken. Half a surrogate pair, which UTF-8 cannot hold, becomes U+FFFD.

    Raises:
        DataError: A value is a non-finite number or has no form in JSON; the field is named.
    """
    row = dict(record) if isinstance(record, Mapping) else record.to_dict()
    try:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_from_numpy)
    except (TypeError, ValueError, RecursionError) as error:
        field, problem = _first_unwritable(row) or (None, str(error))
        raise DataError(f"cannot be written as JSON: {problem}", field=field) from None
    try:
        return line.encode("utf-8") + b"\n"
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in line).encode("utf-8") + b"\n"


class JsonlWriter:
    """Appends records to a JSON Lines file, one complete line each, and can take up a file that a kill cut short.

    A line is handed to the operating system in one piece before `write` returns, so a kill of the process loses none
    of them; it reaches the disk within about two seconds and on close. Threads may share a writer.

    Args:
        path: The file; it and its directories are made where missing. A torn last line is removed.
        overwrite: Empty the file first, once no other process is found to be writing to it.
        mend: Remove a torn last line at once. Otherwise the caller calls `mend`, once it knows whose file it is.

    Raises:
        DataError: The file cannot be opened, another process is writing to it, or it does not end in a row.

    Examples:
        >>> with JsonlWriter("verdicts.jsonl") as writer:  # doctest: +SKIP
        ...     writer.write(verdict)
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False, mend: bool = True):
        self.path = Path(path)
        self._lock = threading.Lock()
        self._synced = time.monotonic()
        self._file: IO[bytes] | None = self._open()
        try:
            if overwrite:
                self._file.truncate(0)
            if mend:
                self.mend()
        except OSError as error:
            self._file.close()
            raise file_error(error, "cannot be written", self.path) from None
        except BaseException:
            self._file.close()
            raise

    def mend(self) -> None:
        """Removes a torn last line.

        Raises:
            DataError: The file ends in something else than the beginning of a row.
        """
        if self._file is not None:
            try:
                repair(self._file)
            except DataError as error:
                raise error.at(file=str(self.path)) from None

    def _open(self) -> IO[bytes]:
        """The file, locked. Opened again if another process removed it in between: a lock is on a file, not a name."""
        refuse_input(self.path)
        for _ in range(_OPENINGS):
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                file = self.path.open("a+b", buffering=0)
            except OSError as error:
                raise file_error(error, "cannot be written", self.path) from None
            try:
                _lock(file.fileno(), self.path)
                if _is_at(file, self.path):
                    return file
            except BaseException:
                file.close()
                raise
            file.close()
        raise DataError("is removed by another process again and again", file=str(self.path))

    def has_path(self) -> bool:
        """Whether the path still leads to the open file, and not to another one or to nothing."""
        return self._file is not None and _is_at(self._file, self.path)

    def write(self, record: Record | Mapping[str, Any]) -> int:
        """Appends a record. Returns the offset in bytes at which its line begins.

        Raises:
            DataError: The record cannot be written as JSON, or the disk refused it. The file keeps all earlier lines
                and no part of this one.
        """
        try:
            line = encode_line(record)
        except DataError as error:
            raise error.at(file=str(self.path)) from None
        with self._lock:
            if self._file is None:
                raise ValueError(f"{self.path} is closed")
            end = self._file.seek(0, os.SEEK_END)
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[self._file.write(rest) :]
            except BaseException as error:
                with contextlib.suppress(OSError):
                    self._file.truncate(end)
                if isinstance(error, OSError):
                    raise file_error(error, "cannot be written", self.path) from None
                raise
            if time.monotonic() - self._synced >= _SYNC_EVERY_SECONDS:
                self._sync()
            return end

    def _sync(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # pipes and some devices cannot be synced
                os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        """Brings the file to the disk and closes it. Safe to call twice."""
        with self._lock:
            if self._file is not None:
                self._sync()
                self._file.close()
                self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _lock(descriptor: int, path: Path) -> None:
    """Keeps an open file or directory to this process, until it is closed."""
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError("another process is writing to it", file=str(path)) from None
    except OSError:  # some network file systems have no locks
        logger.debug("No lock on %s", path, exc_info=True)


@contextlib.contextmanager
def locked_directory(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keeps a directory to this process while the block runs. One that is missing is made, and not left behind empty.

    Raises:
        DataError: Another process keeps it, or it cannot be made.
    """
    directory = Path(path)
    with made_directory(directory):
        try:
            descriptor = os.open(directory, os.O_RDONLY) if fcntl is not None else None
        except OSError as error:
            raise file_error(error, "cannot be opened", directory) from None
        try:
            if descriptor is not None:
                _lock(descriptor, directory)
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)


@contextlib.contextmanager
def made_directory(directory: Path) -> Iterator[None]:
    """Makes a directory that is missing. If it is empty after the block, it is removed again.

    Raises:
        DataError: It cannot be made.
    """
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error(error, "the directory cannot be made", directory) from None
    try:
        yield
    finally:
        for each in missing:
            with contextlib.suppress(OSError):  # it is not empty
                each.rmdir()


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def repair(file: IO[bytes]) -> None:
    """Ends a JSON Lines file at a line's end: removes a torn last line, or ends a complete one that has no newline.

    Args:
        file: Open for reading and appending.

    Raises:
        DataError: What would be removed does not begin as a row does, so somebody else has written it.
    """
    size = file.seek(0, os.SEEK_END)
    start = size
    tail = b""
    while start > 0 and b"\n" not in tail:  # backwards in blocks: the file may be large, its last line too
        step = min(1 << 16, start)
        start -= step
        file.seek(start)
        tail = _read_exactly(file, step) + tail
    tail = tail[tail.rfind(b"\n") + 1 :]
    if not tail:
        return
    if is_torn(tail):
        if not tail.startswith(b"{"):
            raise DataError("does not end in a row, so this program has not written it")
        file.truncate(size - len(tail))
        logger.warning("Removed a torn last line of %d bytes from %s", len(tail), getattr(file, "name", "a file"))
    else:
        file.write(b"\n")


def is_torn(line: bytes) -> bool:
    """Whether a line is the beginning of a longer one: no proper prefix of a JSON object is one itself."""
    try:
        return not isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return True


def _read_exactly(file: IO[bytes], size: int) -> bytes:
    parts = []
    while size > 0 and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _open_packed(path: Path) -> Any:
    name = path.name.lower()
    if name.endswith(".gz"):
        return gzip.open(path, "rb")
    if name.endswith((".zst", ".zstd")):
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))
    return path.open("rb")


@contextlib.contextmanager
def open_bytes(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens a file to read, unpacked if its name ends in `.gz` or `.zst`.

    Raises:
        DataError: The file cannot be opened, read or unpacked, also later within the block.
    """
    try:
        with _open_packed(Path(path)) as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"cannot be unpacked: {error}", file=str(path)) from None
    except OSError as error:
        raise file_error(error, "cannot be read", path) from None


def iter_written_rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file that this module wrote, with their line numbers from 1. A torn last line is left out.

    Raises:
        DataError: The file cannot be read, or a line before the last is not a JSON object.
    """
    with open_bytes(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n") and is_torn(line):
                logger.warning("%s: ignored a torn last line (row %d)", path, number)
                return
            if line.strip():
                yield number, decode_line(line, file=str(path), row=number)


def decode_line(line: bytes, *, file: str, row: int) -> dict[str, Any]:
    """Parses one line.

    Raises:
        DataError: The line is not UTF-8, not JSON, or not an object.
    """
    try:
        text = line.decode("utf-8-sig" if row == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text (byte {error.start + 1} of the row)", file=file, row=row) from None
    return as_row(parse_json(text, file=file, row=row), file=file, row=row)


class _RepeatedKey(Exception):
    """An object has a key twice."""


def _as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKey(next(key for key in keys if keys.count(key) > 1))
    return made


def parse_json(text: str, *, file: str | None = None, row: int | None = None) -> Any:
    """Parses JSON text. NaN and Infinity come through as floats, for the fields' own checks to name them.

    Raises:
        DataError: The text is not JSON, or an object in it has a key twice. Then the key is the error's field.
    """
    try:
        return json.loads(text, object_pairs_hook=_as_dict)
    except _RepeatedKey as error:
        raise DataError("is given twice in the same object", file=file, row=row, field=str(error.args[0])) from None
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if row is not None else f"line {error.lineno}, column {error.colno}"
        raise DataError(f"is not valid JSON: {error.msg} ({where})", file=file, row=row) from None
    except RecursionError:
        raise DataError("is not usable JSON: nested too deeply", file=file, row=row) from None
    except ValueError:
        most = sys.get_int_max_str_digits()
        message = f"is not usable JSON: it holds an integer of more than {most} digits; give it as text, in quotes"
        raise DataError(message, file=file, row=row) from None


def as_row(value: Any, *, file: str, row: int) -> dict[str, Any]:
    """The value, which must be a JSON object.

    Raises:
        DataError: The value is something else.
    """
    if not isinstance(value, dict):
        raise DataError(f"must be a JSON object, but is {kind(value)}", file=file, row=row)
    return value


def write_text(path: str | os.PathLike[str], text: str, *, result: bool = False) -> None:
    """Writes a whole file of UTF-8 text atomically.

    Args:
        path: The file.
        text: Its content.
        result: Whether the file is a result of a command; see `outputs.replacing`.

    Raises:
        DataError: The file cannot be written. What was at the path before is still there.
    """
    with replacing(path, result=result) as file:
        file.write(text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any, *, result: bool = False) -> None:
    """Writes a JSON value as `write_text` does, for people to read, too. Secrets are masked."""
    write_text(path, json.dumps(mask(value), indent=2) + "\n", result=result)


def write_jsonl(
    path: str | os.PathLike[str], records: Iterable[Record | Mapping[str, Any]], *, result: bool = False
) -> int:
    """Writes a whole JSON Lines file atomically, gzipped if the name ends in `.gz`. Returns the number of rows.

    Args:
        path: The file.
        records: Its rows.
        result: Whether the file is a result of a command; see `outputs.replacing`.

    Raises:
        DataError: A record cannot be written as JSON (row and field named), or the file cannot be written. What was
            at the path before is still there.
    """
    count = 0
    with replacing(path, result=result) as file, contextlib.ExitStack() as stack:
        compress = str(path).endswith(".gz")
        # No time stamp and no name in the header, so that equal rows make equal files.
        out: Any = stack.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0)) if compress else file
        for count, record in enumerate(records, start=1):
            try:
                out.write(encode_line(record))
            except DataError as error:
                raise error.at(file=str(path), row=count) from None
    return count


def _from_numpy(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def _first_unwritable(value: Any, path: str = "", depth: int = 0) -> tuple[str | None, str] | None:
    """Where a row cannot be JSON, and why."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if depth > 100:
        return path or None, "nested too deeply"
    if isinstance(value, float) and not math.isfinite(value):
        return path or None, f"the number {value}"
    if isinstance(value, Mapping):
        for key, item in value.items():
            if found := _first_unwritable(item, f"{path}.{key}" if path else str(key), depth + 1):
                return found
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if found := _first_unwritable(item, f"{path}[{index}]", depth + 1):
                return found
    elif not (value is None or isinstance(value, str | int | float)):
        return path or None, f"a {type(value).__name__}"
    return None
