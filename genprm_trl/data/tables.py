"""Rows of CSV and TSV files, whose cells are text."""

from __future__ import annotations

import ast
import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from genprm_trl.errors import DataError

# Columns whose cells are not text: they hold JSON, or what Python prints for it, as pandas writes lists.
_VALUES = {
    *("steps", "completions", "labels", "candidates", "rationales", "extra"),
    *("label", "final_answer_correct", "is_correct"),
}
_WORDS = {"true": True, "false": False, "none": None, "null": None, "nan": None}


def table_rows(file: IO[bytes], path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    """The rows below the line of names, each with the number of the line that it begins in. Empty cells are null.

    Args:
        file: The file, opened.
        path: Its name, for errors.
        delimiter: What stands between cells.

    Raises:
        DataError: The file is not UTF-8 text, has no names of columns or one of them twice, or another delimiter.
    """
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    csv.field_size_limit(1 << 27)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    number = 1
    try:
        names = next(reader, [])
        for other in ";\t|,":
            if len(names) == 1 and other != delimiter and other in names[0]:
                raise DataError(f"its columns are separated by {other!r}, not by {delimiter!r}", file=str(path), row=1)
        for name in names:
            if not name.strip() or names.count(name) > 1:
                what = "is given twice" if name.strip() else "a column has no name"
                raise DataError(what, file=str(path), row=1, field=name.strip() or None)
        while True:
            number = reader.line_num + 1
            cells = next(reader, None)
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(names):
                yield number, DataError(f"has {len(cells)} cells below {len(names)} names of columns")
                continue
            yield number, _row(dict(zip(names, cells, strict=True)))
    except UnicodeDecodeError:
        raise DataError("is not UTF-8 text", file=str(path), row=number) from None
    except csv.Error as error:
        raise DataError(f"is not a table: {error}", file=str(path), row=number) from None


def _row(cells: Mapping[str, str]) -> dict[str, Any]:
    return {name: _value(cell) if name in _VALUES else cell for name, cell in cells.items() if cell != ""}


def _value(cell: str) -> Any:
    """What a cell stands for; text that stands for nothing else is itself, for a field's own check to name."""
    text = cell.strip()
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return cell
