"""Typed access to the fields of unchecked rows: every failure is a `DataError` that names the field."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

from genprm_trl.errors import DataError

T = TypeVar("T")


def kind(value: Any) -> str:
    """What a value is, in the words of an error message.

    Examples:
        >>> kind(None), kind(True), kind(0.5), kind("a" * 50)
        ('null', 'the boolean true', 'the number 0.5', 'a string')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int | float):
        shown = repr(value) if isinstance(value, float) or abs(value) < 10**18 else "too large"
        return f"the number {shown}"
    if isinstance(value, str):
        return "an empty string" if not value else "blank text" if not value.strip() else "a string"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return "an object"
    return f"a {type(value).__name__}"


def as_text(value: Any, field: str) -> str:
    """A string that is valid Unicode; it may be empty."""
    if not isinstance(value, str):
        raise DataError(f"must be a string, but is {kind(value)}", field=field)
    # JSON can spell half of a surrogate pair. It is not text: neither UTF-8 files nor tokenizers take it.
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"is not valid Unicode: a lone surrogate at character {error.start}", field=field
            ) from None
    return value


def as_filled_text(value: Any, field: str) -> str:
    """A string with something other than white space in it."""
    text = as_text(value, field)
    if not text or text.isspace():
        raise DataError(f"must not be empty, but is {kind(value)}", field=field)
    return text


def as_identifier(row: Mapping[str, Any], default: str | None, field: str = "id") -> str:
    """The row's id as text, from a string or an integer.

    Args:
        row: The row.
        default: The id of a row that has none; None if it must have one.
        field: The field that holds the id.
    """
    value = row.get(field)
    value = default if value is None else value
    if value is None:
        raise DataError("is missing", field=field)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise DataError(f"must be a string or an integer, but is {kind(value)}", field=field)
    return as_filled_text(value, field)


def as_choice(value: Any, field: str, choices: Collection[str]) -> str:
    """One of several texts."""
    text = as_text(value, field)
    if text not in choices:
        raise DataError(f"must be one of {', '.join(choices)}, but is {text!r}", field=field)
    return text


def as_optional_text(value: Any, field: str) -> str | None:
    """None, or what `as_text` returns."""
    return None if value is None else as_text(value, field)


def as_bool(value: Any, field: str) -> bool:
    """True or false. Neither 0 nor 1 counts as one."""
    if getattr(value, "shape", None) == () and value.dtype == bool:  # NumPy's
        value = value.item()
    if not isinstance(value, bool):
        raise DataError(f"must be true or false, but is {kind(value)}", field=field)
    return value


def as_optional_bool(value: Any, field: str) -> bool | None:
    """None, or what `as_bool` returns."""
    return None if value is None else as_bool(value, field)


def as_integer(value: Any, field: str, *, low: int | None = None, high: int | None = None) -> int:
    """An integer within [low, high]. Neither a boolean nor a float counts as one, whatever its value."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise DataError(f"must be an integer, but is {kind(value)}", field=field)
    value = int(value)
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"from {low} to {high}" if None not in (low, high) else f"at least {low}"
        raise DataError(f"must be {bounds}, but is {value if abs(value) < 10**18 else 'too large'}", field=field)
    return value


def as_label(value: Any, field: str, *, low: int = -1, high: int | None = None) -> int:
    """A step's index, or -1. A whole number kept as a float counts: pandas makes floats of a column with a null."""
    if isinstance(value, Real) and not isinstance(value, Integral) and float(value).is_integer():
        value = int(float(value))
    return as_integer(value, field, low=low, high=high)


def as_step_label(value: Any, field: str) -> bool:
    """True or false. Some datasets write them as 1 and 0, as 1.0 and 0.0, or as text."""
    if isinstance(value, str) and (word := value.strip().lower()) in ("true", "false", "1", "0"):
        return word in ("true", "1")
    if isinstance(value, Real) and not isinstance(value, bool) and value in (0, 1):
        return bool(value)
    return as_bool(value, field)


def as_number(value: Any, field: str, *, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number within [low, high], as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"must be a number, but is {kind(value)}", field=field)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f"must be a finite number, but is {kind(value)}", field=field)
    if not low <= number <= high:
        raise DataError(f"must be between {low:g} and {high:g}, but is {number:g}", field=field)
    return number


def as_list(value: Any, field: str) -> list[Any]:
    """A list; a tuple counts as one."""
    if not isinstance(value, list | tuple):
        raise DataError(f"must be a list, but is {kind(value)}", field=field)
    return list(value)


def as_object(value: Any, field: str | None) -> Mapping[str, Any]:
    """A mapping."""
    if not isinstance(value, Mapping):
        raise DataError(f"must be an object, but is {kind(value)}", field=field)
    return value


def as_objects(value: Any, field: str, read: Callable[[Mapping[str, Any]], T]) -> list[T]:
    """What `read` makes of each object of a list. The fields of its errors come to begin with the object's place."""
    made = []
    for index, item in enumerate(as_list(value, field)):
        try:
            made.append(read(as_object(item, None)))
        except DataError as error:
            raise error.at(within=f"{field}[{index}]") from None
    return made


def as_steps(value: Any, field: str, *, blank: bool = False) -> list[str]:
    """A list of at least one step. None of them may be blank unless `blank`."""
    steps = as_list(value, field)
    if not steps:
        raise DataError("must hold at least one step, but is an empty list", field=field)
    check = as_text if blank else as_filled_text
    return [check(step, f"{field}[{index}]") for index, step in enumerate(steps)]


def as_answer(value: Any, field: str) -> str | None:
    """An answer as text. Numbers are taken too, since many files keep numeric answers as such."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        as_number(value, field)
        return str(value)
    return as_optional_text(value, field)


def require(row: Mapping[str, Any], field: str) -> Any:
    """The field's value, which must be there and not null."""
    value = row.get(field)
    if value is None:
        raise DataError("is missing" if field not in row else "must not be null", field=field)
    return value


def json_safe(value: Any) -> Any:
    """A copy of a value that JSON can carry: non-finite numbers become null, foreign types become text.

    For the fields of a source row that are only carried along (`Solution.extra`), such as the dates of a parquet file.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    return str(value)
