"""The data of the harness's tasks: from the Hub or from files, checked, as the harness wants it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genprm_trl.data.formats import to_processbench
from genprm_trl.data.solutions import load_solutions
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.records import Solution, Verdict
from genprm_trl.rows.jsonl import parse_json

if TYPE_CHECKING:
    from datasets import Dataset

PROCESSBENCH = "Qwen/ProcessBench"


def processbench_dataset(split: str, data_dir: str | None = None, **_: Any) -> dict[str, Dataset]:
    """A split of ProcessBench, as the harness's `custom_dataset`.

    Args:
        split: gsm8k, math, olympiadbench or omnimath.
        data_dir: A directory with a file for each split (`gsm8k.json`, or JSONL), for example a copy of the repository
            on the Hub. Default: the Hub.
        _: The harness passes all of the task's metadata and the model's arguments.

    Returns:
        The solutions as the split `test`.

    Raises:
        DataError: The data are missing (it says how to get them) or a row is unusable.
        ConfigError: `data_dir` is no path.
    """
    source: Any = PROCESSBENCH if data_dir is None else named_path(data_dir, "data_dir")
    try:
        solutions = load_solutions(source, split=split, format="processbench")
    except DataError as error:
        if error.row is not None:
            raise
        raise DataError(
            f"{error.message}. Get ProcessBench with `hf download {PROCESSBENCH} --repo-type dataset --local-dir DIR` "
            f"""and name the directory: --metadata '{{"data_dir": "DIR"}}'""",
            file=error.file,
        ) from None
    for number, solution in enumerate(solutions, start=1):
        if solution.label is None:
            raise DataError("is missing: ProcessBench scores need it", file=str(source), row=number, field="label")
    return as_test_split(to_processbench(solution) for solution in solutions)


def named_path(value: Any, name: str) -> Path:
    """A path from `--metadata`, whose values may be any JSON.

    Raises:
        ConfigError: The value is no path.
    """
    if not isinstance(value, str | Path) or not str(value).strip():
        raise ConfigError(f"--metadata: {name} must be a path, not {value!r}")
    return Path(value)


def as_test_split(rows: Any) -> dict[str, Dataset]:
    """Rows as the harness's dataset with the split `test` alone."""
    from datasets import Dataset

    return {"test": Dataset.from_list(list(rows))}


def encode_solution(problem: str, steps: list[str], identifier: str) -> str:
    """A solution as the text of a request to the model `genprm`. The id is part of it: chains are seeded by it."""
    return json.dumps({"id": identifier, "problem": problem, "steps": list(steps)}, ensure_ascii=False)


def read_verdict(text: str) -> Verdict:
    """The verdict in an answer of the model `genprm`.

    Raises:
        ConfigError: The text is no verdict, so another model has answered.
    """
    try:
        return Verdict.from_dict(parse_json(text))
    except DataError:
        raise ConfigError(
            "this task is for verifiers: run it with --model genprm (the model answered something else than a verdict)"
        ) from None


def decode_solution(text: str) -> Solution | None:
    """The solution in a request's text, None if it is any other text."""
    try:
        row = parse_json(text)
        return Solution.from_dict(row) if isinstance(row, dict) and row.keys() == {"id", "problem", "steps"} else None
    except DataError:
        return None
