"""What a check found out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Status = Literal[
    "ok",
    "absent",  # not there, and only needed by those who want what it brings
    "degraded",  # there and not as it should be; the rest works
    "failed",  # something that everything needs
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        area: Heading that it belongs under.
        name: What was looked at.
        status: See `Status`.
        detail: What was seen: a version, a size, a reason.
        fix: What to do about it, a command where there is one; empty if the status is `ok`.
    """

    area: str
    name: str
    status: Status
    detail: str
    fix: str = ""


def size(octets: float) -> str:
    """A number of bytes for people, in GiB, or in MiB below one."""
    return f"{octets / 2**30:.1f} GiB" if octets >= 2**30 else f"{octets / 2**20:.0f} MiB"


def nearest_existing(path: str | Path) -> Path:
    """The path, or the closest directory above it that is there."""
    found = Path(path).expanduser().absolute()
    return next(each for each in (found, *found.parents) if each.exists())
