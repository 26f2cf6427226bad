"""Running a command with its files known: what it reads is never written to, and results of others are kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from genprm_trl.rows.outputs import command_files, inputs

logger = logging.getLogger(__name__)


def run_command(module: Any, options: Sequence[Any], *, config_file: str | None = None) -> int:
    """Runs a command whose module has `files`, which takes what `run` takes, under the protection of these files.

    Args:
        module: The command's module. One without `files` writes none.
        options: The objects that `run` takes.
        config_file: The configuration file that the options were read from.

    Returns:
        The exit code.

    Raises:
        ConfigError: An output is an input, or somebody else's.
    """
    if not hasattr(module, "files"):
        return module.run(*options) or 0
    files = module.files(*options)
    reads = [*files.reads, *inputs("file", config_file)]
    files = replace(files, reads=reads, command=module.__name__.rpartition(".")[2])
    with command_files(files):
        code = module.run(*options) or 0
    if files.kept and not files.changed:
        logger.info("nothing has changed since %s was written", files.kept[0])
    return code
