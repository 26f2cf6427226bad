"""lm-eval's own test_tasks.py with our tasks in the place of its default ones.

`make test-peers` fetches the file from lm-eval's source archive, of the version that is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def metadata(tmp_path: Path) -> dict[str, object]:
    """Data for all tasks."""
    [row, *_] = map(json.loads, (SAMPLES / "processbench_sample.jsonl").read_text(encoding="utf-8").splitlines())
    for split in SPLITS:
        rows = [{**row, "id": f"{split}-{number}"} for number in range(LIMIT)]
        (tmp_path / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")
    problems = [{"problem": f"What is {a} + 1?", "answer": str(a + 1)} for a in range(LIMIT)]
    pools = [{**row, "candidates": [f"It is {a + 1}.", f"It is {a}."]} for a, row in enumerate(problems)]
    return {
        "data_dir": str(tmp_path),
        "problems": str(write(tmp_path / "problems.jsonl", problems)),
        "candidates": str(write(tmp_path / "pools.jsonl", pools)),
    }


def test_our_tasks_pass_the_tests_of_the_harness(metadata: dict[str, object], tmp_path: Path) -> None:
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
