"""The settings that a file was made with, kept beside it, so that a run that goes on never mixes two makings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genprm_trl.errors import ConfigError, DataError
from genprm_trl.rows.digests import content_digest
from genprm_trl.rows.jsonl import replacing

# How an error of a command ends that will not go on with a file.
START_ANEW = "choose another --output, or --overwrite"


def decisive(options: Any) -> dict[str, Any]:
    """The options that decide what is written, so that all rows of a file must share them.

    Args:
        options: A dataclass. A field with `metadata={"operational": True}` is left out: it says how fast or where the
            work is done.

    Returns:
        Name to value.

    Examples:
        >>> @dataclasses.dataclass
        ... class Options:
        ...     seed: int = 0
        ...     device: str = dataclasses.field(default="cpu", metadata={"operational": True})
        >>> decisive(Options())
        {'seed': 0}
    """
    fields = dataclasses.fields(options)
    return {field.name: getattr(options, field.name) for field in fields if not field.metadata.get("operational")}


def settings_digest(settings: Mapping[str, Any]) -> str:
    """A short hash of settings, equal for equal JSON values whatever their order: for rows that say their making.

    Examples:
        >>> settings_digest({"seed": 0, "model": "m"}) == settings_digest({"model": "m", "seed": 0})
        True
    """
    return content_digest(dict(settings))


def check_settings(path: Path, settings: Mapping[str, Any], *, made: Path | None, what: str) -> None:
    """Refuses to go on with a file that was made with other settings, and keeps those of this run.

    Args:
        path: Where the settings are kept.
        settings: What decides the file's content, as JSON values.
        made: The file, if it holds anything yet. What was kept with a file that holds nothing does not bind.
        what: What the file holds, for the message.

    Raises:
        ConfigError: The file was made with other settings.
        DataError: The settings cannot be read or written.
    """
    now = json.loads(json.dumps(dict(settings)))
    if made is not None and path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = [name for name, value in now.items() if before.get(name) != value]
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(f"cannot be read: {error}", file=str(path)) from error
        if changed:
            differences = ", ".join(f"{name} was {before.get(name)!r} and is now {now[name]!r}" for name in changed)
            raise ConfigError(f"{made} holds {what} made with other settings ({differences}); {START_ANEW}")
    try:
        with replacing(path) as file:
            file.write(json.dumps(now, indent=2).encode() + b"\n")
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror}", file=str(path)) from error
