"""Running a command with its files known: what it reads is never written to, and results of others are kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from genprm_trl.rows.outputs import CommandFiles, command_files, inputs

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class OverwriteOptions:
    """What becomes of what is at the output already."""

    overwrite: bool = field(
        default=False,
        metadata={
            "help": "Start again, and replace what is at the output: rows or checkpoints of an earlier run, and files "
            "that this program did not write."
        },
    )


def files_of(module: Any, options: Sequence[Any]) -> CommandFiles | None:
    """What a command reads and writes; None if it writes nothing.

    The command's module says so in `files`, which takes what `run` takes. Without it, that of the options says so
    which has a method `files`: `StageOptions`.
    """
    if hasattr(module, "files"):
        return module.files(*options)
    return next((each.files(*options) for each in options if hasattr(each, "files")), None)


def run_command(module: Any, options: Sequence[Any], *, config_file: str | None = None) -> int:
    """Runs a command under the protection of the files that it reads and writes.

    Args:
        module: The command's module.
        options: The objects that `run` takes.
        config_file: The configuration file that the options were read from.

    Returns:
        The exit code.

    Raises:
        ConfigError: An output is an input, or somebody else's.
    """
    files = files_of(module, options)
    if files is None:
        return module.run(*options) or 0
    reads = [*files.reads, *inputs("file", config_file)]
    files = replace(files, reads=reads, command=module.__name__.rpartition(".")[2])
    with command_files(files):
        code = module.run(*options) or 0
    if files.kept and not files.changed:
        logger.info("nothing has changed since %s was written", files.kept[0])
    return code
