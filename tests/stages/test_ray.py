"""A local Ray with two workers gives the rows of one worker."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import ray

from genprm_trl.cli.main import main
from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.data.solutions import iter_verdicts
from genprm_trl.errors import ConfigError, GenPRMError, MissingExtraError
from genprm_trl.miniature.world import make_solutions
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.stages.file import Outcome, stage_directory
from genprm_trl.stages.partial import Partial
from genprm_trl.stages.ray import with_ray
from genprm_trl.stages.run import Worker, run_stage
from tests.helpers import rationale_program
from tests.helpers.judging_model import judging_model
from tests.helpers.stage_program import Number, Numbers
from tests.helpers.tiny_models import tiny_tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster():
    # Ray's workers run at the lowest priority, and would starve where the machine has other work.
    os.environ.update(RAY_worker_niceness="0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()


def meet(place: Path) -> None:
    """Waits until two workers are there: one that starts sooner could do all the work."""
    (place / str(os.getpid())).touch()
    give_up = time.monotonic() + 120
    while len(list(place.iterdir())) < 2 and time.monotonic() < give_up:
        time.sleep(0.05)


@contextlib.asynccontextmanager
async def opens_together(place: Path) -> AsyncIterator[None]:
    meet(place)
    yield


async def dies(opened: None, number: Number, partial: Partial) -> Outcome:
    if number.value == 159:
        raise GenPRMError("the engine died")
    return Outcome(rows=[{"id": number.id, "pid": os.getpid()}])


def test_two_workers_write_the_rows_of_one(tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    alone = rationale_program.run(str(one), 40)
    together = rationale_program.run(str(two), 40, execute=with_ray(2, 8))
    assert two.read_bytes() == one.read_bytes()
    assert together == alone


def test_both_work_and_the_end_of_one_keeps_what_was_finished(tmp_path):
    output, place = tmp_path / "rows.jsonl", tmp_path / "place"
    place.mkdir()
    worker = Worker(functools.partial(opens_together, place), dies)
    with pytest.raises(GenPRMError, match="the engine died"):
        # Forty blocks of four numbers: more than one worker is given ahead.
        run_stage(worker, Numbers(160), output, {}, execute=with_ray(2, 8), progress=False)
    journal = (stage_directory(output) / "journal.jsonl").read_text().splitlines()
    pids = {row["pid"] for line in journal for row in json.loads(line)["rows"]}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_verdicts_of_two_workers_are_those_of_none(tmp_path, capsys):
    """Each worker has its own model and sandbox; the verdicts depend on the solutions and the seed alone."""
    model, data = tmp_path / "genprm", tmp_path / "solutions.jsonl"
    judging_model().save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    ModelSettings(modes=("full",)).save(model)
    write_jsonl(data, make_solutions(6, seed=3))

    def verdicts(name: str, *words: str) -> dict[str, tuple[Any, ...]]:
        output = tmp_path / name
        command = ["verify", str(data), "--model", str(model), "--output", str(output), "--n", "2"]
        assert main([*command, "--max_step_tokens", "16", *words]) == 0
        assert "solutions judged   6" in capsys.readouterr().out
        # Seconds of code runs differ from run to run.
        return {
            verdict.id: (
                [round(reward, 4) for reward in verdict.rewards],
                [[step.rationale for step in chain] for chain in verdict.chains],
            )
            for verdict in iter_verdicts(output)
        }

    alone = verdicts("alone.jsonl")
    assert len(alone) == 6
    assert verdicts("together.jsonl", "--workers", "2", "--max_items", "2") == alone


@pytest.mark.parametrize(("words", "options"), [((0,), {}), ((1, 0), {}), ((1,), {"gpus_per_worker": -1.0})])
def test_numbers_are_checked(words, options):
    with pytest.raises(ConfigError):
        with_ray(*words, **options)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'genprm-trl\[ray\]'"):
        with_ray(2)
