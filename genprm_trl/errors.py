"""The errors that a person can act on: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable
from numbers import Real
from pathlib import Path

# What the machine refuses, whatever the options say: room on the disk, or a right.
_OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


class GenPRMError(Exception):
    """Base of the errors this package raises on purpose. The command line prints them without a traceback."""


class DataError(GenPRMError, ValueError):
    """Unusable input data. Names the file, the row (counted from 1) and the field where they are known.

    It is a `ValueError`, which is what TRL raises for wrong data.

    Args:
        message: What is wrong and, if it helps, what was expected.
        file: Path of the file, or name of the dataset.
        row: Row number counted from 1.
        field: Name of the field within the row.
    """

    def __init__(self, message: str, *, file: str | None = None, row: int | None = None, field: str | None = None):
        self.message, self.file, self.row, self.field = message, file, row, field
        where = [file] if file else []
        if row is not None:
            where.append(f"row {row}")
        if field is not None:
            where.append(f"field '{field}'")
        super().__init__(f"{', '.join(where)}: {message}" if where else message)

    def at(self, *, file: str | None = None, row: int | None = None, within: str | None = None) -> DataError:
        """The same error with its place, for a reader that knows more of it than the check that failed.

        Args:
            file: The file, where the error names none.
            row: The row, where the error names none.
            within: The field that holds the object in which the error's field stands.
        """
        field = self.field
        if within is not None:
            field = within if field is None else f"{within}.{field}"
        row = row if self.row is None else self.row
        return type(self)(self.message, file=self.file or file, row=row, field=field)


class StorageError(DataError):
    """A file that the machine refuses: its disk is full, or a right is missing. The command line ends with code 1."""


def is_of_the_machine(error: OSError) -> bool:
    """Whether the cause is a full disk or a missing right, which no other option would change."""
    return error.errno in _OF_THE_MACHINE


def file_error(error: OSError, what: str, file: object) -> DataError:
    """The error for a file that the system refuses.

    Args:
        error: What the system said.
        what: What is not possible: `cannot be written`.
        file: The file.

    Returns:
        A `StorageError` for a full disk or a missing right, otherwise a `DataError`.
    """
    kind = StorageError if is_of_the_machine(error) else DataError
    reason = error.strerror or str(error)
    if isinstance(error, FileExistsError | NotADirectoryError):
        # The system names neither the file nor what is wrong with it.
        in_the_way = [each for each in (Path(str(file)), *Path(str(file)).parents) if each.is_file()]
        reason = f"{in_the_way[0]} is a file, not a directory" if in_the_way else reason
    return kind(f"{what}: {reason}", file=str(file))


class ConfigError(GenPRMError, ValueError):
    """An unusable option, model directory or combination of settings.

    It is a `ValueError`, which is what TRL and transformers raise for wrong options.
    """


class MissingExtraError(GenPRMError, ImportError):
    """An optional package is needed and not installed. Names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(
            f"{purpose} needs the package '{package}'. Install it with: pip install 'genprm-trl[{extra}]'"
        )


def check_at_least(least: float, **values: float | None) -> None:
    """Checks settings that must not be below a bound; one that is None is not set.

    Raises:
        ConfigError: A value is below the bound, infinite or not a number, such as a text.

    Examples:
        >>> check_at_least(1, n=8, limit=None)
    """
    for name, value in values.items():
        if value is None:
            continue
        _check_number(name, value)
        if not least <= value < math.inf:
            bound = "finite" if value > least else f"at least {least:g}"
            raise ConfigError(f"{name} must be {bound}, got {value}")


def check_positive(**values: float) -> None:
    """Checks settings that must be above 0.

    Raises:
        ConfigError: A value is 0 or below, or is not a number.
    """
    for name, value in values.items():
        _check_number(name, value)
        if not value > 0:
            raise ConfigError(f"{name} must be positive, got {value}")


def check_share(**values: float) -> None:
    """Checks settings that must be from 0 to 1.

    Raises:
        ConfigError: A value is outside [0, 1], or is not a number.
    """
    for name, value in values.items():
        _check_number(name, value)
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} must be within [0, 1], got {value}")


def _check_number(name: str, value: object) -> None:
    # Settings of JSON and YAML may hold anything.
    if not isinstance(value, Real):
        raise ConfigError(f"{name} must be a number, got {value!r}")


def check_text(**values: object) -> None:
    """Checks settings that must be texts; one that is None is not set.

    Raises:
        ConfigError: A value is something else.
    """
    for name, value in values.items():
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{name} must be a text, got {value!r}")


def check_one_of(choices: Iterable[str | None], **values: object) -> None:
    """Checks settings that must have one of a few values.

    Raises:
        ConfigError: A value is none of them.
    """
    known = list(choices)
    for name, value in values.items():
        if value not in known:
            listed = ", ".join(choice for choice in known if choice is not None)
            raise ConfigError(f"unknown {name} {value!r}; choose one of {listed}")
