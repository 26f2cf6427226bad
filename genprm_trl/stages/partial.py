"""What has been paid for of items that are not finished: a long item that a kill interrupts is not begun anew."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from genprm_trl.rows.jsonl import JsonlWriter, encode_line, replacing


class PartialResults:
    """Records of unfinished items, appended as they come, in `partial.jsonl` beside a stage's journal.

    Made by the caller of `run_stage`, which opens it before any work; it goes when the stage is finished. The worker
    adds to it and asks it what is known. Places alone are kept in memory.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._writer: JsonlWriter | None = None
        self._places: dict[str, list[int]] = {}

    def open(self, path: Path, unfinished: Container[str]) -> None:
        """Takes up the file of an earlier run, without what belongs to items that are finished by now.

        Raises:
            DataError: It cannot be read or written.
        """
        self._path = path
        if path.exists():
            self._keep(path, unfinished)
        self._writer = JsonlWriter(path)

    def _keep(self, path: Path, unfinished: Container[str]) -> None:
        with replacing(path) as kept, path.open("rb") as lines:
            for line in lines:
                try:
                    row = json.loads(line)
                except ValueError:  # torn by a kill: it will be made again
                    continue
                if row["id"] in unfinished:
                    self._places.setdefault(row["id"], []).append(kept.tell())
                    kept.write(encode_line(row))

    def __reduce__(self) -> tuple[type[PartialResults], tuple[()]]:
        """In another process nothing is kept: files have one writer."""
        return PartialResults, ()

    def add(self, id: str, record: Mapping[str, Any]) -> None:
        """Keeps a record of an item; it survives a kill from here on. Does nothing while it is not open."""
        if self._writer is not None:
            self._writer.write({"id": id, "record": record})

    def take(self, id: str) -> list[dict[str, Any]]:
        """The records of an item that an earlier run left, in their order. Each is handed out once."""
        places = self._places.pop(id, [])
        if not places or self._path is None:
            return []
        records = []
        with self._path.open("rb") as lines:
            for place in places:
                lines.seek(place)
                records.append(json.loads(lines.readline())["record"])
        return records

    def close(self) -> None:
        """Closes the file. Safe to call twice."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
