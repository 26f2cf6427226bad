"""The file that a stage of the data recipe makes: resumable after any kill, and independent of the order of work.

    rollouts.jsonl                       the rows, in the order of the input; there once the stage is finished
    rollouts.jsonl.stage/journal.jsonl   what came of each input item, a line each, as items finish
    rollouts.jsonl.stage/partial.jsonl   what there is of items that are not finished; gone once all are
    rollouts.jsonl.stage/settings.json   what the rows were made with
    rollouts.jsonl.stage/summary.json    counts

The journal is the only truth. A line of it holds everything that came of an item (rows, what was dropped and why,
counts), so a kill leaves an item done or not done and nothing between. The output is written from it in one piece; it
can be written anew, and more items can be added, as long as the journal is there.
"""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from genprm_trl.errors import ConfigError, DataError, GenPRMError
from genprm_trl.rows.digests import IdTable, text_hash
from genprm_trl.rows.jsonl import JsonlWriter, decode_line, replacing, write_jsonl
from genprm_trl.stages.settings import START_ANEW, check_settings

_NOT_DONE = -1


class Item(Protocol):
    """What a stage takes in: anything with an id and a hash of its content. `Solution` is one."""

    @property
    def id(self) -> str:
        """Unique within the input."""
        ...

    @property
    def digest(self) -> str:
        """A short hash of whatever decides what comes of the item."""
        ...


ItemT = TypeVar("ItemT", bound=Item)


@dataclass(slots=True)
class Outcome:
    """What came of one item.

    Attributes:
        rows: The output rows, any number of them, as JSON objects.
        dropped: Reason to number, of what was left out.
        counts: Name to amount, of what was spent or seen. Amounts add up over items.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class StageSummary:
    """Counts over all items of a finished stage, equal for equal input and settings.

    Attributes:
        items: Items that were worked on.
        rows: Rows that came of them.
        dropped: Reason to number, of what was left out.
        counts: Name to amount, of what was spent or seen.
        bad_rows: Rows of the input that could not be used.
    """

    items: int = 0
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    counts: dict[str, float] = field(default_factory=dict)
    bad_rows: int = 0

    def add(self, outcome: Outcome) -> None:
        """Adds what came of an item."""
        self.items += 1
        self.rows += len(outcome.rows)
        self.dropped.update(outcome.dropped)
        for name, amount in outcome.counts.items():
            self.counts[name] = self.counts.get(name, 0) + amount

    def to_dict(self) -> dict[str, Any]:
        return {
            "items": self.items,
            "rows": self.rows,
            "dropped": dict(sorted(self.dropped.items())),
            "counts": dict(sorted(self.counts.items())),
            "bad_rows": self.bad_rows,
        }

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The summary beside a finished stage's output.

        Args:
            path: The output.

        Raises:
            DataError: There is none, or it cannot be read.
        """
        file = stage_directory(path) / "summary.json"
        try:
            row = json.loads(file.read_text(encoding="utf-8"))
            return cls(row["items"], row["rows"], Counter(row["dropped"]), dict(row["counts"]), row["bad_rows"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"is not the summary of a finished stage: {error}", file=str(file)) from None


def stage_directory(path: str | Path) -> Path:
    """Where journal, settings and summary of an output are."""
    path = Path(path)
    return path.with_name(path.name + ".stage")


class StageFile(Generic[ItemT]):
    """The output of a stage over its input, taken up where an earlier run was stopped.

    The input is read twice, once here, so that a bad row of it shows before any work starts, and once for
    `remaining`. Of an item some 60 bytes are kept in memory: hashes of its id and content, and its place in the
    journal. While it is open no other process writes to it.

    Args:
        path: The output, JSON Lines (gzipped if it ends in `.gz`), made with its directory where missing.
        settings: What decides the rows, as JSON values.
        items: The input. It must give the same items each time it is iterated over.
        overwrite: Start anew, once no other process is found to be writing.

    Raises:
        ConfigError: The output was made with other settings or by something else, or `path` is no regular file.
        DataError: The input is bad, an item's content is not what it was, or the output cannot be written.
    """

    def __init__(
        self, path: str | Path, settings: Mapping[str, Any], items: Iterable[ItemT], *, overwrite: bool = False
    ):
        self.path = Path(path)
        self._items = items
        self._directory = stage_directory(self.path)
        self._check_path(overwrite)
        self._numbers, self._digests = self._read_input(items)
        self._places = array("q", [_NOT_DONE]) * len(self._digests)
        # The lock comes before anything is read or removed: from here on the files stay as they are.
        self._writer = JsonlWriter(self.journal_path, overwrite=overwrite)
        try:
            if overwrite:
                self.path.unlink(missing_ok=True)
                self.partial_path.unlink(missing_ok=True)
            made = self.path if self.journal_path.stat().st_size else None
            check_settings(self._directory / "settings.json", settings, made=made, what="rows")
            self._read_journal()
        except BaseException:
            self.close()
            raise
        self.total = len(self._places)
        self.done = self.total - self._places.count(_NOT_DONE)

    @property
    def journal_path(self) -> Path:
        return self._directory / "journal.jsonl"

    @property
    def partial_path(self) -> Path:
        return self._directory / "partial.jsonl"

    def _check_path(self, overwrite: bool) -> None:
        if self.path.is_dir():
            raise ConfigError(f"{self.path} is a directory; name a file")
        if self.path.exists() and not self.path.is_file():
            raise ConfigError(f"{self.path} is not a regular file, so a run that was stopped could not go on from it")
        if self.path.exists() and not self.journal_path.exists() and not overwrite:
            raise ConfigError(f"{self.path} exists, and there is no {self.journal_path} to go on from; {START_ANEW}")

    @staticmethod
    def _read_input(items: Iterable[ItemT]) -> tuple[IdTable, array[int]]:
        """The number of each item by its id, and hashes of the digests by number."""
        numbers, digests = IdTable(), array("Q")
        for number, item in enumerate(items):
            if numbers.get(item.id) is not None:
                raise DataError(f"the input has the id '{item.id}' twice", field="id")
            numbers.add(item.id, number)
            digests.append(text_hash(item.digest))
        return numbers, digests

    def _read_journal(self) -> None:
        place = 0
        with self.journal_path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                row = decode_line(line, file=str(self.journal_path), row=number)
                try:
                    name, digest = row["id"], row["digest"]
                except KeyError as error:
                    raise DataError(
                        "is missing", file=str(self.journal_path), row=number, field=error.args[0]
                    ) from None
                item = self._numbers.get(name)
                if item is not None:  # else it is beyond a --limit that was larger before, and stays for later
                    if text_hash(digest) != self._digests[item]:
                        raise DataError(
                            f"holds what was made of '{name}' when its content was another: the input has changed, or "
                            f"this belongs to other data; {START_ANEW}",
                            file=str(self.journal_path),
                            row=number,
                        )
                    self._places[item] = place
                place += len(line)

    @property
    def unfinished(self) -> Container[str]:
        """The ids of the items that are not done."""
        return _Unfinished(self)

    def remaining(self) -> Iterator[ItemT]:
        """The items that nothing is known of yet, in the input's order, read as they are asked for."""
        for item in self._items:
            if item.id in self.unfinished:
                yield item

    def write(self, id: str, digest: str, outcome: Outcome) -> None:
        """Keeps what came of an item; it survives a kill from here on.

        Raises:
            DataError: A row cannot be written as JSON, or the disk refused it. What was kept before is still there.
            ValueError: The item is not of the input, or is done already.
        """
        number = self._numbers.get(id)
        if number is None or self._places[number] != _NOT_DONE:
            raise ValueError(f"item {id!r} is {'not of the input' if number is None else 'done already'}")
        line = {"id": id, "digest": digest, "rows": outcome.rows, "dropped": outcome.dropped, "counts": outcome.counts}
        self._places[number] = self._writer.write(line)
        self.done += 1

    def outcomes(self) -> Iterator[tuple[str, Outcome]]:
        """What came of each item that is done, with the item's id, in the input's order."""
        with self.journal_path.open("rb") as journal:
            for place in self._places:
                if place != _NOT_DONE:
                    journal.seek(place)
                    row = json.loads(journal.readline())
                    yield row["id"], Outcome(row["rows"], row["dropped"], row["counts"])

    def finish(self, *, bad_rows: int = 0) -> StageSummary:
        """Writes the output and the summary, each in one piece.

        Args:
            bad_rows: Rows of the input that could not be used, for the summary.

        Raises:
            GenPRMError: Some items are not done.
            DataError: The files cannot be written. The journal is still there, and so is an output of before.
        """
        if self.done < self.total:
            raise GenPRMError(f"{self.total - self.done} of {self.total} items are not done")
        summary = StageSummary(bad_rows=bad_rows)

        def rows() -> Iterator[dict[str, Any]]:
            for _, outcome in self.outcomes():
                summary.add(outcome)
                yield from outcome.rows

        write_jsonl(self.path, rows())
        path = self._directory / "summary.json"
        try:
            with replacing(path) as file:
                file.write(json.dumps(summary.to_dict(), indent=2).encode() + b"\n")
        except OSError as error:
            raise DataError(f"cannot be written: {error.strerror}", file=str(path)) from error
        self.partial_path.unlink(missing_ok=True)
        return summary

    def close(self) -> None:
        """Closes the file, and removes what was made for it if nothing was ever kept. Safe to call twice."""
        if self.journal_path.exists() and not self.journal_path.stat().st_size and not self.path.exists():
            self.journal_path.unlink()
            (self._directory / "settings.json").unlink(missing_ok=True)
            if self.partial_path.exists() and not self.partial_path.stat().st_size:
                self.partial_path.unlink()
            if not os.listdir(self._directory):  # noqa: PTH208 (nothing of the entries is needed)
                self._directory.rmdir()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Unfinished:
    file: StageFile[Any]

    def __contains__(self, id: object) -> bool:
        number = self.file._numbers.get(id) if isinstance(id, str) else None
        return number is not None and self.file._places[number] == _NOT_DONE
