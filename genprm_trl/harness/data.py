"""The data of the harness's tasks: from the Hub or from files, checked, as the harness wants it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genprm_trl.data.formats import to_processbench
from genprm_trl.data.solutions import OpenReader, Records, RowReader, solution_reader
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.records import Solution, Verdict
from genprm_trl.rows.jsonl import parse_json

if TYPE_CHECKING:
    from datasets import Dataset

PROCESSBENCH = "Qwen/ProcessBench"
PRMBENCH = "hitsmy/PRMBench_Preview"


@dataclass(frozen=True, slots=True)
class _Benchmark:
    """Where the rows of a benchmark are.

    Attributes:
        title: Its name.
        sources: Where it is published: a dataset on the Hub, or addresses of files.
        command: What makes a directory of it.
        files: Which files of a directory hold its rows. The first pattern that fits some is taken. Empty for a
            directory that is read as a dataset is.
        folder: Its folder in a directory of several benchmarks, if that has another name.
        splits: Its splits, of which a directory may hold some. Empty if it has none.
    """

    title: str
    sources: tuple[str, ...]
    command: str
    files: tuple[str, ...] = ()
    folder: str = ""
    splits: tuple[str, ...] = ()


_MR_GSM8K = "https://raw.githubusercontent.com/dvlab-research/MR-GSM8K/main"
_CLONE_MR_GSM8K = "git clone https://github.com/dvlab-research/MR-GSM8K DIR"
# Those whose explanations people and GPT-4 have judged.
_CRITICS = ("Claude", "GPT3_5", "llama2_70b", "mammoth_70B", "metamath_70B", "wizardmath_70B")

BENCHMARKS = {
    "processbench": _Benchmark(
        "ProcessBench",
        (PROCESSBENCH,),
        f"hf download {PROCESSBENCH} --repo-type dataset --local-dir DIR",
        splits=("gsm8k", "math", "olympiadbench", "omnimath"),
    ),
    "bigbench_mistake": _Benchmark(
        "BIG-Bench Mistake",
        ("https://raw.githubusercontent.com/WHGTyen/BIG-Bench-Mistake/main/{split}.jsonl",),
        "git clone https://github.com/WHGTyen/BIG-Bench-Mistake DIR",
        ("{split}.json*", "{split}_*.json*"),
        splits=(
            "dyck_languages",
            "logical_deduction",
            "multistep_arithmetic",
            "tracking_shuffled_objects",
            "word_sorting",
        ),
    ),
    "prmbench": _Benchmark(
        "PRMBench",
        (PRMBENCH,),
        f"hf download {PRMBENCH} --repo-type dataset --local-dir DIR",
        ("*.json*", "data/*.parquet", "*.parquet"),
    ),
    "mr_gsm8k": _Benchmark(
        "MR-GSM8K",
        (f"{_MR_GSM8K}/dataset/MR-GSM8K.json",),
        _CLONE_MR_GSM8K,
        ("MR-GSM8K.json*", "dataset/MR-GSM8K.json*", "wrong*.json*"),
    ),
    "explanations": _Benchmark(
        "MR-GSM8K",
        tuple(f"{_MR_GSM8K}/eval_results/gpt4-grading/{critic}_eval_results.json" for critic in _CRITICS),
        _CLONE_MR_GSM8K,
        ("explanations*.json*", "eval_results/gpt4-grading/*.json*", "gpt4-grading/*.json*"),
        folder="mr_gsm8k",
    ),
}


def processbench_dataset(split: str, data_dir: Any = None, **_: Any) -> dict[str, Dataset]:
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
    return as_test_split(map(to_processbench, read_benchmark("processbench", data_dir, split)))


def read_benchmark(name: str, data_dir: Any, split: str = "", open_reader: OpenReader | None = None) -> list[Any]:
    """The labelled solutions of a benchmark, or other records of its rows.

    Args:
        name: The benchmark, which is also the format of its rows.
        data_dir: A directory, or the address of one; None for where the benchmark is published. A directory of several
            benchmarks has a folder for each, named like it.
        split: Which of its splits or files.
        open_reader: What makes records of its rows. Default: solutions, as the format says.

    Raises:
        DataError: The data are missing (it says how to get them) or a row is unusable.
        ConfigError: `data_dir` is no path.
    """
    benchmark = BENCHMARKS[name]
    part = None if benchmark.files else split
    found: list[Any] = []
    try:
        for source in _sources(name, data_dir, split):
            records: Records[Any] = Records(source, open_reader or _labelled_reader(name), split=part)
            found += records
    except DataError as error:
        if error.row is not None:
            raise
        raise DataError(
            f"{error.message}. Get {benchmark.title} with `{benchmark.command}` "
            f"""and name the directory: --metadata '{{"data_dir": "DIR"}}'""",
            file=error.file,
        ) from None
    return found


def splits_there(name: str, data_dir: Any) -> list[str]:
    """The splits of a benchmark of which a directory holds a file.

    Args:
        name: The benchmark.
        data_dir: As for `read_benchmark`.
    """
    if not isinstance(data_dir, str | Path) or not (directory := _folder(name, Path(data_dir))).is_dir():
        return []
    benchmark = BENCHMARKS[name]
    patterns = benchmark.files or ("{split}.*",)

    def is_there(split: str) -> bool:
        return any(next(directory.glob(pattern.format(split=split)), None) for pattern in patterns)

    return list(filter(is_there, benchmark.splits))


def _folder(name: str, directory: Path) -> Path:
    """The folder of a benchmark in a directory of several, or the directory."""
    folder = directory / (BENCHMARKS[name].folder or name)
    return folder if folder.is_dir() else directory


def _labelled_reader(format: str) -> OpenReader:
    """Reads solutions that have a label."""

    def open_reader(stem: str) -> RowReader:
        read_row = solution_reader(format)(stem)

        def read(row: Mapping[str, Any], number: int) -> list[Solution]:
            solutions = list(read_row(row, number))
            if any(solution.label is None for solution in solutions):
                raise DataError("is missing: the scores need it", field="label")
            return solutions

        return read

    return open_reader


def _sources(name: str, data_dir: Any, split: str) -> list[Any]:
    """What the rows of a benchmark are read from: files, a directory, or what is published."""
    benchmark = BENCHMARKS[name]
    published = [source.format(split=split) for source in benchmark.sources]
    if data_dir is None:
        return published
    if isinstance(data_dir, str) and data_dir.startswith(("http://", "https://")):
        return [f"{data_dir.rstrip('/')}/{source.rpartition('/')[2]}" for source in published]
    directory = _folder(name, named_path(data_dir, "data_dir"))
    if not benchmark.files or not directory.is_dir():
        return [directory]
    patterns = [pattern.format(split=split) for pattern in benchmark.files]
    for pattern in patterns:
        if files := sorted(directory.glob(pattern)):
            return files
    raise DataError(f"holds no {' or '.join(patterns)}", file=str(directory))


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
