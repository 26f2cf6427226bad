"""lm-eval's own test_tasks.py with our tasks in the place of its default ones.

`make test-peers` fetches the file from lm-eval's source archive, of the version that is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest

from genprm_trl.harness.tasks import tasks_path
from genprm_trl.protocol import GenPRMProtocol
from genprm_trl.verifier.genprm import GenPRM
from tests.harness.conftest import SPLITS
from tests.helpers.judging_generator import Judging
from tests.helpers.paths import ROOT, SAMPLES
from tests.helpers.running_service import running

ARCHIVES = Path(os.environ.get("GENPRM_PEERS", ROOT / ".peers"))
LIMIT = 10  # the documents of a task that the file looks at; it wants so many to be there
# The file asks a module beside it, which the archive lacks, for the tasks that it is to test.
UTILS = """\
import functools, json, os

import lm_eval.tasks

given = json.loads(os.environ["GENPRM_TASKS"])
lm_eval.tasks.TaskManager = functools.partial(
    lm_eval.tasks.TaskManager, include_path=given["path"], include_defaults=False, metadata=given["metadata"]
)


def new_tasks():
    return lm_eval.tasks.TaskManager().all_subtasks
"""


def sample(name: str) -> list[dict[str, Any]]:
    """Rows of a benchmark, as many as are asked for, each with a name of its own."""
    lines = (SAMPLES / f"{name}_sample.jsonl").read_text(encoding="utf-8").splitlines()
    rows = islice(cycle(map(json.loads, lines)), LIMIT + len(lines))
    names = ("id", "idx", "uuid")
    return [row | {name: f"{number}" for name in names if name in row} for number, row in enumerate(rows)]


@pytest.fixture
def metadata(tmp_path: Path) -> dict[str, Any]:
    """Data for all tasks: a folder for each benchmark, and files for Best-of-N."""
    mr_gsm8k = sample("mr_gsm8k")
    judged = {
        "tiny_eval_output": {"error_reason": "It adds what is eaten."},
        "error_reason_correctness": "correct",
        "gpt4_error_reason_correctness_analysis": {"Final Decision": "Correct"},
    }
    wrong = next(row for row in mr_gsm8k if row["model_output_solution_correctness"] == "wrong")
    problems = [{"problem": f"What is {a} + 1?", "answer": str(a + 1)} for a in range(LIMIT)]
    files = {
        **{f"data/processbench/{split}.json": sample("processbench") for split in SPLITS},
        **{
            f"data/bigbench_mistake/{path.stem.removeprefix('bigbench_mistake_')}.json": sample("bigbench_mistake")
            for path in (tasks_path() / "bigbench_mistake").glob("bigbench_mistake_*.yaml")
        },
        "data/prmbench/prmbench.json": sample("prmbench"),
        "data/mr_gsm8k/MR-GSM8K.json": mr_gsm8k,
        "data/mr_gsm8k/eval_results/gpt4-grading/tiny_eval_results.json": [
            {**wrong, **judged, "uuid": str(number)} for number in range(LIMIT)
        ],
        "problems.json": problems,
        "pools.json": [{**row, "candidates": [f"It is {a + 1}.", f"It is {a}."]} for a, row in enumerate(problems)],
    }
    for name, rows in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(rows), encoding="utf-8")
    return {
        "data_dir": str(tmp_path / "data"),
        "problems": str(tmp_path / "problems.json"),
        "candidates": str(tmp_path / "pools.json"),
    }


def test_our_tasks_pass_the_tests_of_the_harness(metadata: dict[str, Any], tmp_path: Path) -> None:
    source = next(ARCHIVES.glob("lm_eval-*/tests/test_tasks.py"), None)
    if source is None:
        pytest.skip("make test-peers fetches the file")
    package = tmp_path / "of_lm_eval"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "utils.py").write_text(UTILS, encoding="utf-8")
    (package / "test_tasks.py").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    names = [path.stem for path in tasks_path().rglob("*.yaml") if not path.name.startswith("_")]
    assert len(names) >= 18
    command = [sys.executable, "-m", "pytest", str(package), "--rootdir", str(tmp_path), "-q", "-k", "TestNewTasks"]
    with running(GenPRM(Judging(None), None, GenPRMProtocol(mode="direct"))) as service:
        given = {"path": str(tasks_path()), "metadata": {**metadata, "verifier": {"server": service.url}}}
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "GENPRM_TASKS": json.dumps(given)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-5000:]
    assert f"{13 * len(names)} passed" in done.stdout, done.stdout[-500:]
