"""The real solutions that the verifier is judged on, found in a directory of data. None of them is trained on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genprm_trl.data.pools import Pool, read_pools
from genprm_trl.data.solutions import load_solutions
from genprm_trl.errors import ConfigError
from genprm_trl.records import Solution

TRAINING_FILE = "gsm8k/train.jsonl"
# Where each lies: the first that is there. Names with a star may be several files, all of which are read.
_PLACES = {
    "bigbench": ("bigbench_mistake/multistep_arithmetic*.jsonl",),
    "processbench": ("processbench/gsm8k.json",),
    "gsm8k": ("gsm8k/example_model_solutions.jsonl", "gsm8k/model_solutions.jsonl"),
}
TITLES = {
    "bigbench": "BIG-Bench Mistake, multistep arithmetic",
    "processbench": "ProcessBench, gsm8k",
    "gsm8k": "GSM8K, four models' solutions",
}
_FROM = (
    "gsm8k/train.jsonl and gsm8k/example_model_solutions.jsonl of github.com/openai/grade-school-math, "
    "processbench/gsm8k.json (Qwen/ProcessBench), and bigbench_mistake/multistep_arithmetic.jsonl of "
    "github.com/WHGTyen/BIG-Bench-Mistake"
)

CANDIDATES = 4
"""Solutions of each problem in GSM8K's file of model solutions."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Real solutions.

    Attributes:
        name: A key of `TITLES`.
        files: Where they are from.
        solutions: What is judged.
        pools: The candidates of each problem, where solutions are to be chosen from; then they have no labels.
    """

    name: str
    files: tuple[Path, ...]
    solutions: Sequence[Solution]
    pools: Sequence[Pool] = ()


def data_directory(named: str | None) -> Path:
    """The directory of data: the one that is named, or that GENPRM_SHARED_DATA names, or `../shared/data`.

    Raises:
        ConfigError: It has no training data.
    """
    directory = Path(named or os.environ.get("GENPRM_SHARED_DATA") or "../shared/data")
    if not (directory / TRAINING_FILE).is_file():
        raise ConfigError(f"there is no {directory / TRAINING_FILE}. Name with --data_dir a directory with {_FROM}")
    return directory


def read_benchmarks(directory: Path, *, limit: int | None, pools: int) -> list[Benchmark]:
    """The benchmarks that a directory holds.

    Args:
        directory: The directory.
        limit: Solutions of each labelled benchmark. Of a longer one half of them have an error. None is all.
        pools: Problems whose solutions are read of GSM8K.

    Raises:
        ConfigError: It holds none.
        DataError: A file cannot be read, or a row of it.
    """
    found = []
    for name, patterns in _PLACES.items():
        files = next((each for pattern in patterns if (each := tuple(sorted(directory.glob(pattern))))), ())
        if not files:
            continue
        if name == "gsm8k":
            candidates = read_pools(files[0], limit=pools)
            solutions = [solution for pool in candidates for solution in pool.solutions()]
            found.append(Benchmark(name, files, solutions, candidates))
        else:
            rows = [solution for file in files for solution in load_solutions(file)]
            if limit is not None and len(rows) > limit:  # as many with an error as without: the scores need both
                wrong, right = ([s for s in rows if (s.label == -1) == is_right] for is_right in (False, True))
                rows = [*wrong[: limit // 2], *right[: limit - limit // 2]]
            found.append(Benchmark(name, files, rows))
    if not found:
        raise ConfigError(f"{directory} holds nothing to judge. It may have {_FROM}")
    return found
