"""The settings that a file or a run was made with, kept beside it, so that a resumed run never mixes two makings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genprm_trl.errors import ConfigError, DataError
from genprm_trl.rows.secrets import mask

# How an error of a command ends that will not go on with a file.
START_ANEW = "choose another --output, or --overwrite"


def decisive(options: Any) -> dict[str, Any]:
    """The options that decide what is written, so that all rows of a file must share them.

    Options of other projects bear no such mark and are told by their names: `generation.backends.OPERATIONAL_OPTIONS`
    of generators, `training.options` of trainers.

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


class OtherSettings(ConfigError):
    """Something was made with other settings.

    Attributes:
        changed: A text for each setting that differs, which says how.
    """

    def __init__(self, message: str, changed: Mapping[str, str]):
        super().__init__(message)
        self.changed = changed


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """What differs between the settings of two makings.

    Args:
        before: The earlier settings, as JSON values. Those that are not among the new ones do not count.
        now: The new settings.

    Returns:
        For each setting that differs, in the new settings' order, a text that says how. Secrets make no difference.

    Examples:
        >>> changes({"n": 1, "seed": 0}, {"n": 8, "seed": 0})
        {'n': 'n was 1 and is now 8'}
    """
    before = mask(before)
    return {
        name: f"{name} was {before.get(name)!r} and is now {value!r}"
        for name, value in mask(json.loads(json.dumps(dict(now)))).items()
        if before.get(name) != value
    }


def refuse_changes(changed: Mapping[str, str], *, what: str, instead: str) -> None:
    """Refuses to mix two makings.

    Args:
        changed: What differs, from `changes`.
        what: What is wrong, for the message: "labels.jsonl holds rows made with other settings".
        instead: What the user can do, for the message.

    Raises:
        OtherSettings: Something differs.
    """
    if changed:
        raise OtherSettings(f"{what} ({', '.join(changed.values())}); {instead}", changed)


def read_settings(path: Path) -> dict[str, Any] | None:
    """The settings that a file holds; None if there is no such file.

    Raises:
        DataError: The file cannot be read, or holds something else.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", file=str(path)) from error
    if not isinstance(settings, dict):
        raise DataError("does not hold settings", file=str(path))
    return settings
