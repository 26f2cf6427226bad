"""Data in the schemas of the benchmarks, and the harness without the thousands of tasks that come with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genprm_trl.cli.main import main
from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.harness.tasks import tasks_path
from tests.helpers.judging_generator import BACKEND
from tests.helpers.judging_model import save_judging_model
from tests.helpers.paths import SAMPLES
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer

DATA = SAMPLES
SPLITS = ("gsm8k", "math", "olympiadbench", "omnimath")


@pytest.fixture(scope="session")
def processbench_dir(tmp_path_factory) -> Path:
    """A directory as a copy of the benchmark's repository is one: a JSON file a split."""
    path = tmp_path_factory.mktemp("processbench")
    rows = [json.loads(line) for line in (DATA / "processbench_sample.jsonl").read_text().splitlines()]
    for number, split in enumerate(SPLITS):
        own = [{**row, "id": f"{split}-{index}"} for index, row in enumerate(rows[number:])]
        (path / f"{split}.json").write_text(json.dumps(own))
    return path


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory) -> Path:
    """A tiny random model as the harness's own model `hf` loads it."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def genprm_dir(tmp_path_factory) -> Path:
    """A tiny verifier."""
    path = tmp_path_factory.mktemp("models") / "genprm"
    save_judging_model(path)
    ModelSettings(modes=("direct", "full")).save(path)
    return path


@pytest.fixture
def own_tasks_alone(monkeypatch):
    """Leaves the harness's own tasks out of its index: reading them takes twenty seconds each time."""
    import lm_eval.tasks
    from lm_eval.tasks._index import TaskIndex

    read, theirs = TaskIndex._iter_yaml_files, Path(lm_eval.tasks.__file__).parent

    def ours(root):
        return iter(()) if Path(root) == theirs else read(root)

    monkeypatch.setattr(TaskIndex, "_iter_yaml_files", staticmethod(ours))


def load_tasks(names, **metadata):
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=metadata).load(names)


def run(genprm_dir: Path, processbench_dir: Path, out: Path, *words: str, arguments: str = "n=3,mode=direct") -> int:
    """`genprm lm-eval` with the model `genprm`, whose generator is `Judging`."""
    arguments += f",backend={BACKEND}"
    return main(
        [
            *("lm-eval", "--model", "genprm", "--model_args", f"pretrained={genprm_dir},{arguments}"),
            *("--metadata", json.dumps({"data_dir": str(processbench_dir)})),
            *("--output_path", str(out), "--log_samples", *words),
        ]
    )


def only(pattern: str, directory: Path) -> Path:
    """The one file of that name below a directory."""
    [path] = directory.rglob(pattern)
    return path
