"""A file of finished items, one line each, that a run can resume after any kill and that never mixes two makings."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from genprm_trl.errors import ConfigError, DataError
from genprm_trl.rows.digests import IdTable, text_hash
from genprm_trl.rows.jsonl import JsonlWriter, Record, decode_line, encode_line, is_torn, write_json
from genprm_trl.rows.outputs import replacing
from genprm_trl.stages.settings import START_ANEW, changes, read_settings, refuse_changes

_NOT_DONE = -1


class Item(Protocol):
    """What is worked on: anything with an id and a hash of its content. `Solution` is one."""

    @property
    def id(self) -> str:
        """Unique within the input."""
        ...

    @property
    def digest(self) -> str:
        """A short hash of whatever decides what comes of the item."""
        ...


ItemT = TypeVar("ItemT", bound=Item)


class ResumableFile(Generic[ItemT]):
    """One JSON line for each finished item, appended as items finish.

    The input is read twice: once here, so that a bad row shows before any work starts, and once for `remaining`. Some
    130 bytes an item are kept in memory: hashes of its id and content, and its place in the file. While the file is
    open, no other process writes to it.

    Args:
        path: The JSON Lines file, made with its directory where missing.
        settings: What decides the lines, as JSON values.
        items: The input. It must give the same items each time it is iterated over.
        settings_path: Where the settings are kept.
        output: The file that the user knows, for messages.
        what: What the file holds, for messages: "rows".
        overwrite: Start again, once no other process is found to be writing.

    Attributes:
        total: Items of the input.
        done: How many of them are finished.

    Raises:
        ConfigError: The lines were made with other settings, or the output is no regular file.
        DataError: The input is bad, an item's content has changed, or the file cannot be read or written.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        items: Iterable[ItemT],
        *,
        settings_path: Path,
        output: Path,
        what: str,
        overwrite: bool = False,
    ):
        self.path, self.output = path, output
        self._settings_path, self._items, self._what = settings_path, items, what
        if output.is_dir():
            raise ConfigError(f"{output} is a directory; name a file")
        if output.exists() and not output.is_file():
            raise ConfigError(f"{output} is not a regular file, so a run that was stopped could not resume from it")
        self._numbers, self._digests = IdTable(), array("Q")
        for number, item in enumerate(items):
            self._numbers.add(item.id, number)
            self._digests.append(text_hash(item.digest))
            self._note_item(item)
        self.total = len(self._digests)
        if not overwrite and path.exists() and path.stat().st_size and not settings_path.exists():
            raise ConfigError(
                f"{output} exists, and there is no {settings_path} that says what it was made with; {START_ANEW}"
            )
        if not overwrite and settings and settings_path.exists():
            kept = read_settings(settings_path) or {}
            if kept and not kept.keys() & settings.keys():
                raise ConfigError(f"{settings_path} exists, and does not hold settings of {what}; {START_ANEW}")
        # The lock comes before anything is read or removed: from here on the files stay as they are.
        self._writer = JsonlWriter(path, overwrite=overwrite, mend=False)
        try:
            if overwrite:
                self._remove_results()
            before = None if self._is_empty() else read_settings(settings_path)
            if before is not None:
                changed = changes(before, settings)
                refuse_changes(changed, what=f"{output} holds {what} made with other settings", instead=START_ANEW)
            self._read()
            self._writer.mend()
            write_json(settings_path, dict(settings))
        except BaseException:
            self.close()
            raise

    def _note_item(self, item: ItemT) -> None:
        """Keeps of an item of the input what a kind of file needs, in the input's order."""

    def _is_empty(self) -> bool:
        """Whether nothing was kept yet that the settings decide."""
        return not self.path.stat().st_size

    def _remove_results(self) -> None:
        """Removes what was made of the lines."""

    def _key(self, line: Mapping[str, Any]) -> tuple[str, str]:
        """The id and the digest of the item that a line is about. An empty digest fits every content."""
        try:
            return line["id"], line["digest"]
        except KeyError as error:
            raise DataError("is missing", field=error.args[0]) from None

    def _read(self) -> None:
        """Finds the items that are finished."""
        self._places = array("q", [_NOT_DONE]) * self.total
        place = 0
        with self.path.open("rb") as lines:
            for row, line in enumerate(lines, start=1):
                if not line.endswith(b"\n") and is_torn(line):
                    break
                try:
                    id, digest = self._key(decode_line(line, file=str(self.path), row=row))
                    self._note(id, digest, place)
                except DataError as error:
                    raise DataError(error.message, file=str(self.path), row=row, field=error.field) from None
                place += len(line)
        self.done = self.total - self._places.count(_NOT_DONE)

    def _note(self, id: str, digest: str, place: int) -> None:
        number = self._numbers.get(id)
        if number is None:  # beyond a --limit that was larger before: it stays for later
            return
        if digest and text_hash(digest) != self._digests[number]:
            raise DataError(
                f"holds {self._what} of '{id}' about another text, or with another answer or label: the input has "
                f"changed, or the file belongs to other data; {START_ANEW}"
            )
        self._places[number] = place

    def __contains__(self, id: str) -> bool:
        """Whether the input has an item of this id."""
        return self._numbers.get(id) is not None

    def is_unfinished(self, id: str) -> bool:
        """Whether an item is of the input and not finished."""
        number = self._numbers.get(id)
        return number is not None and self._places[number] == _NOT_DONE

    def remaining(self) -> Iterator[ItemT]:
        """The items that are not finished, in the input's order, read as they are asked for."""
        for item in self._items:
            if self.is_unfinished(item.id):
                yield item

    def append(self, id: str, line: Record | Mapping[str, Any]) -> None:
        """Keeps what came of an item; it survives a kill from here on.

        Raises:
            DataError: It cannot be written as JSON, the disk refused it, or somebody removed the file. What was kept
                before is still there.
            ValueError: The item is not of the input, or is finished already.
        """
        self._check_place()
        number = self._numbers.get(id)
        if number is None or not self.is_unfinished(id):
            raise ValueError(f"item {id!r} is {'done already' if id in self else 'not of the input'}")
        self._places[number] = self._writer.write(line)
        self.done += 1

    def _check_place(self) -> None:
        """Refuses to go on where the path leads to another file: what is written would be lost, or mixed up."""
        if not self._writer.has_path():
            raise DataError("was removed or replaced while this command was writing to it", file=str(self.path))

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines of the finished items, in the input's order."""
        with self.path.open("rb") as lines:
            for place in self._places:
                if place != _NOT_DONE:
                    lines.seek(place)
                    yield json.loads(lines.readline())

    def rewrite(self, change: Callable[[dict[str, Any]], Mapping[str, Any] | None]) -> None:
        """Rewrites the lines.

        Args:
            change: Makes the new line of a line. None removes it, so that its item remains to be worked on.
        """
        self._check_place()
        with replacing(self.path) as file, self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                row = change(decode_line(line, file=str(self.path), row=number))
                if row is not None:
                    file.write(encode_line(row))
        if not self._writer.has_path():  # the lock is on the file that was replaced
            before, self._writer = self._writer, JsonlWriter(self.path)
            before.close()
        self._read()

    def close(self) -> None:
        """Closes the file, and removes it if nothing was ever kept. Safe to call twice.

        A file that somebody else has put in its place stays: the lock is on the file that was opened, not on its name.
        """
        if self._writer.has_path() and self._is_empty():
            self.path.unlink()
            self._settings_path.unlink(missing_ok=True)
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
