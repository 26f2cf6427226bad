"""Files of short solutions."""

from __future__ import annotations

import json
from pathlib import Path


def write_rows(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(number: int, **fields: object) -> dict[str, object]:
    return {"id": f"s{number}", "problem": "What is 1 + 1?", "steps": [f"{number} + 1 = {number + 1}."], **fields}
