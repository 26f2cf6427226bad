"""Runs that end by SIGKILL at a chosen point of writing, in this very process: for processes that tests start."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from genprm_trl.rows.jsonl import JsonlWriter


def die_at(write: int, *, torn: bool = False) -> None:
    """From now on, the `write`-th line (from 1) that any `JsonlWriter` appends is the last thing this process does.

    Args:
        write: Which line.
        torn: Die in the middle of the line rather than behind it.
    """
    original = JsonlWriter.write
    written = 0

    def write_and_die(self: JsonlWriter, record: Any) -> int:
        nonlocal written
        written += 1
        if written == write and torn:
            self._file = _Torn(self._file)  # type: ignore[assignment]
        place = original(self, record)
        if written == write:
            os.kill(os.getpid(), signal.SIGKILL)
        return place

    JsonlWriter.write = write_and_die  # type: ignore[method-assign]


def command(words: list[str], write: int = 0, torn: bool = False) -> None:
    """Runs a command line and ends with its exit code; or before, by SIGKILL, at the line `write` if it is not 0."""
    from genprm_trl.cli.main import main

    if write:
        die_at(write, torn=torn)
    sys.exit(main(words))


class _Torn:
    """A file that takes half of what it is given."""

    def __init__(self, file: Any):
        self._file = file

    def write(self, data: Any) -> int:
        self._file.write(bytes(data)[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
