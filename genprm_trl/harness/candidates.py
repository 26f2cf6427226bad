"""Pools of candidates as the data of the harness's tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genprm_trl.data.pools import read_pools
from genprm_trl.errors import DataError
from genprm_trl.harness.data import as_test_split, named_path

if TYPE_CHECKING:
    from datasets import Dataset

_HOW = {
    "gsm8k": "the model solutions that come with GSM8K will do (example_model_solutions.jsonl of "
    "github.com/openai/grade-school-math)",
    "math500": "sample solutions of MATH-500 with a model of yours",
}


def candidates_dataset(name: str, candidates: Any = None, **_: Any) -> dict[str, Dataset]:
    """Pools as the harness's `custom_dataset`.

    Args:
        name: The task's part of the group, for which `candidates` may be a mapping.
        candidates: A file (see `pools.read_pools`), or a mapping from names of tasks to files.
        _: The harness passes all of the task's metadata and the model's arguments.

    Raises:
        DataError: There is no file (it says how to get one), or a row is unusable.
        ConfigError: `candidates` is no path.
    """
    source = candidates.get(name) if isinstance(candidates, Mapping) else candidates
    if not source:
        how = f"; {_HOW[name]}" if name in _HOW else ""
        raise DataError(
            f"""needs a file of candidates: --metadata '{{"candidates": "FILE"}}', with rows like """
            f"""{{"problem": ..., "answer": ..., "candidates": [...]}}{how}""",
            file=f"best_of_n_{name}",
        )
    return as_test_split(pool.__dict__ for pool in read_pools(named_path(source, "candidates")))
