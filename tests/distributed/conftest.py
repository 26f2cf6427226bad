"""These tests need DeepSpeed, which has a separate folder: `make test-distributed` fills it and runs them.

Importing DeepSpeed changes other tests, so it is in no environment that they use, and only the jobs import it.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import Qwen2ForTokenClassification

from tests.helpers.jobs import Finished, accelerate_zero, launch, torchrun
from tests.helpers.judging_model import save_judging_model
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer

_DEEPSPEED = importlib.util.find_spec("deepspeed")
collect_ignore_glob = [] if _DEEPSPEED else ["test_*.py"]

PLAIN, SHARDED = "plain", ("zero2", "zero3", "fsdp2")
_SECONDS = 480  # for a job, whose trainings have their own limits

_FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "Qwen2DecoderLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    policy = tiny_model()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        classifier = Qwen2ForTokenClassification(copy.deepcopy(policy.config))
    for name, model in (("policy", policy), ("classifier", classifier)):
        model.save_pretrained(directory / name)
        tiny_tokenizer().save_pretrained(directory / name)
    save_judging_model(directory / "verifier")
    (directory / "reward.yaml").write_text(
        f"verifier: {directory / 'verifier'}\nmax_step_tokens: 16\n", encoding="utf-8"
    )
    return directory


@pytest.fixture(scope="session")
def jobs(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    """Runs the trainings in a set-up, once."""
    finished: dict[str, Finished] = {}

    def run(setup: str) -> Finished:
        if setup not in finished:
            finished[setup] = run_trainings(setup, models, tmp_path_factory.mktemp(setup))
        return finished[setup]

    return run


def run_trainings(setup: str, models: Path, out: Path) -> Finished:
    names = os.environ.get("GENPRM_TRAININGS", "").split()  # some of them, while working on one
    program = ["tests.distributed.program", setup, str(models), str(out), *names]
    if setup.startswith("zero"):
        launcher, folder = accelerate_zero(2, int(setup[-1])), Path(_DEEPSPEED.origin).parents[1]
        return launch(launcher, program, out, seconds=_SECONDS, deepspeed=folder)
    return launch(torchrun(2), program, out, seconds=_SECONDS, environment=_FSDP if setup == "fsdp2" else None)
