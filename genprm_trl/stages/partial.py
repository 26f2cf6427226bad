"""Partial results of unfinished items, so that a long item resumes after a kill."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genprm_trl.rows.jsonl import JsonlWriter, encode_line
from genprm_trl.rows.outputs import replacing
from genprm_trl.stages.resumable import Item


def _keep_nothing(record: dict[str, Any]) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Partial:
    """The parts of one item's work. Without arguments nothing is known and nothing is kept.

    Attributes:
        known: Records that an earlier run kept of this item, in their order.
        keep: Keeps one more record, a JSON object. It survives a kill.
    """

    known: Sequence[Mapping[str, Any]] = ()
    keep: Callable[[dict[str, Any]], None] = _keep_nothing


def no_partial(item: Item) -> Partial:
    """Nothing known of any item, and nothing kept."""
    return Partial()


class PartialFile:
    """Records of unfinished items, appended as they come. Only their places in the file are kept in memory.

    Args:
        path: The file; made when the first record is kept. Records of finished items are removed from it.
        unfinished: Whether the item of an id is of the input and not finished.

    Raises:
        DataError: The file cannot be read or written.
    """

    def __init__(self, path: Path, unfinished: Callable[[str], bool]):
        self._path = path
        self._writer: JsonlWriter | None = None
        self._places: dict[str, list[int]] = {}
        if path.exists():
            self._clean(unfinished)

    def _clean(self, unfinished: Callable[[str], bool]) -> None:
        with replacing(self._path) as kept, self._path.open("rb") as lines:
            for line in lines:
                try:
                    row = json.loads(line)
                except ValueError:  # torn by a kill: it will be made again
                    continue
                if unfinished(row["id"]):
                    self._places.setdefault(row["id"], []).append(kept.tell())
                    kept.write(encode_line(row))
        if not self._places:
            self._path.unlink()

    def of(self, item: Item) -> Partial:
        """What an earlier run left of an item, and where to keep more. The known records are handed out once.

        Records of an item whose content has changed since then are left aside.
        """
        return Partial(self._take(item), functools.partial(self._add, item.id, item.digest))

    def _add(self, id: str, digest: str, record: Mapping[str, Any]) -> None:
        if self._writer is None:
            self._writer = JsonlWriter(self._path)
        self._writer.write({"id": id, "digest": digest, "record": record})

    def _take(self, item: Item) -> list[dict[str, Any]]:
        places = self._places.pop(item.id, [])
        if not places:
            return []
        records = []
        with self._path.open("rb") as lines:
            for place in places:
                lines.seek(place)
                row = json.loads(lines.readline())
                if row.get("digest") == item.digest:
                    records.append(row["record"])
        return records

    def close(self) -> None:
        """Closes the file. Safe to call twice."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
