"""Stages that each fill a directory, once: a run that is started again goes on with the first unfinished one."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from genprm_trl.errors import ConfigError, DataError
from genprm_trl.rows.jsonl import write_json
from genprm_trl.stages.settings import changes, read_settings, refuse_changes


class StageDirectories:
    """Runs a stage into a separate directory, once: it carries a mark that says what it was made with.

    A directory that carries no such mark is somebody else's and is not touched.

    Args:
        output: Holds the directories.
        names: The stages, each the name of its directory.
        settings: What decides the stages' results, as JSON values.
        announce: Told what happens next.
        overwrite: Whether a finished stage that was made with other settings is made again.

    Raises:
        ConfigError: A directory holds something else, or was made with other settings.
    """

    MARK = "quickstart.json"

    def __init__(
        self,
        output: Path,
        names: Sequence[str],
        settings: dict[str, Any],
        announce: Callable[[str], None],
        *,
        overwrite: bool = False,
    ):
        self.output, self.names, self.announce = output, names, announce
        self.settings = settings
        self.seconds: dict[str, float] = {}
        for name in names:  # all of them before the first one costs any time
            directory = output / name
            if directory.exists() and self.mark(directory) is None and any(directory.iterdir()):
                raise ConfigError(f"{directory} exists and was not made by a quickstart; choose another --output_dir")
            made = self.mark(directory)
            if made is not None and made["seconds"] is not None and not overwrite:
                refuse_changes(
                    changes(made["settings"], settings),
                    what=f"{directory} was made with other settings",
                    instead="choose another --output_dir, or --overwrite",
                )

    def run(self, name: str, what: str, work: Callable[[Path], None]) -> Path:
        """Runs a stage, unless it is finished. Returns its directory."""
        directory = self.output / name
        if self.is_to_do(name, what):
            self.finish(name, timed(work, directory))
        return directory

    def is_to_do(self, name: str, what: str) -> bool:
        """Whether a stage is unfinished. Its directory is then empty, and says that the stage has begun."""
        directory = self.output / name
        made = self.mark(directory)
        if made is not None and not changes(made["settings"], self.settings) and made["seconds"] is not None:
            self.announce(f"{what}: done before, in {directory}.")
            self.seconds[name] = made["seconds"]
            return False
        self.announce(f"{what}." if made is None else f"{what}, in place of an unfinished or different one.")
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        self._write_mark(directory, None)
        return True

    def finish(self, name: str, seconds: float) -> None:
        """Marks a stage as finished."""
        self.seconds[name] = seconds
        self._write_mark(self.output / name, seconds)

    def _write_mark(self, directory: Path, seconds: float | None) -> None:
        write_json(directory / self.MARK, {"settings": self.settings, "seconds": seconds})

    def mark(self, directory: Path) -> dict[str, Any] | None:
        """What a directory says that it was made with; None if it says nothing."""
        with contextlib.suppress(DataError):
            mark = read_settings(directory / self.MARK)
            return mark if mark is not None and mark.keys() >= {"settings", "seconds"} else None
        return None


def timed(work: Callable[..., None], *args: Any) -> float:
    """The seconds that it took."""
    started = time.monotonic()
    work(*args)
    return time.monotonic() - started


def machine() -> str:
    """What this process computes on: the GPU, or else the processor's cores, and torch."""
    import torch

    on = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return f"{on}, {platform.machine()}, torch {torch.__version__}"
