"""These tests need DeepSpeed, which has a separate folder: `make test-distributed` fills it and runs them.

Importing DeepSpeed changes other tests, so it is in no environment that they use, and only the jobs import it.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2ForCausalLM, Qwen2ForTokenClassification

from genprm_trl.conversation.conversation import Conversation
from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.conversation.template import ChatFormat
from genprm_trl.protocol.genprm import OUTPUT_PREFIX, GenPRMProtocol
from tests.helpers.paths import ROOT
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer

collect_ignore_glob = [] if importlib.util.find_spec("deepspeed") else ["test_*.py"]

PLAIN, SHARDED = "plain", ("zero2", "zero3", "fsdp2")
_SECONDS = 240  # for a job, whose trainings have their own limits

_FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "Qwen2DecoderLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}


@dataclass(frozen=True)
class Finished:
    """What a job of two processes left."""

    out: Path
    code: int
    log: str
    seconds: float

    def told(self, name: str) -> dict[str, Any]:
        """What a training logged."""
        file = self.out / f"{name}.json"
        assert file.exists(), f"{name} did not finish:\n{self.log[-20000:]}"
        return json.loads(file.read_text())

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        """The weights that it saved, of the model or of its adapter."""
        [file] = [path for path in (self.out / name).glob("*.safetensors") if "training" not in path.name]
        return load_file(file)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    policy, verifier = tiny_model(), judging_model()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        classifier = Qwen2ForTokenClassification(copy.deepcopy(policy.config))
    for name, model in (("policy", policy), ("verifier", verifier), ("classifier", classifier)):
        model.save_pretrained(directory / name)
        tiny_tokenizer().save_pretrained(directory / name)
    ModelSettings("generation_prompt", modes=("direct",)).save(directory / "verifier")
    (directory / "reward.yaml").write_text(
        f"verifier: {directory / 'verifier'}\nmax_step_tokens: 16\n", encoding="utf-8"
    )
    return directory


@torch.no_grad()
def judging_model() -> Qwen2ForCausalLM:
    """A random model that says Yes or No after the prefix of a verdict, with a probability that hangs on the step."""
    tokenizer = tiny_tokenizer()
    model = copy.deepcopy(tiny_model(seed=1, tie_word_embeddings=False, initializer_range=0.1))
    chat, protocol = ChatFormat(tokenizer, "generation_prompt"), GenPRMProtocol("direct")
    states = []
    for step in ("It is 12.", "So x = 3", "What?", "Therefore, the books", "\\frac{3}{4}", "No!"):
        conversation = Conversation(chat)
        conversation.open_turn(protocol.opening_messages("What is 2 + 3?", [step], 0))
        conversation.append(OUTPUT_PREFIX, "forced")
        states.append(model.model(torch.tensor([conversation.token_ids])).last_hidden_state[0, -1])
    place, hangs = torch.stack(states).mean(dim=0), states[0] - states[1]
    place, hangs = place / place.norm(), hangs / hangs.norm()
    for word, sign in (("{Yes", 1), ("{No", -1)):
        [token] = tokenizer.encode(word)
        model.lm_head.weight[token] = 3 * place + sign * hangs
    return model


@pytest.fixture(scope="session")
def jobs(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    """Runs the trainings in a set-up, once."""
    finished: dict[str, Finished] = {}

    def run(setup: str) -> Finished:
        if setup not in finished:
            finished[setup] = launch(setup, models, tmp_path_factory.mktemp(setup))
        return finished[setup]

    return run


def launch(setup: str, models: Path, out: Path) -> Finished:
    # DeepSpeed is there for its own jobs alone.
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if not setup.startswith("zero"):
        paths = [path for path in paths if not (Path(path) / "deepspeed").is_dir()]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *paths]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if setup.startswith("zero"):
        # The set-up of the recipes, but for the precision, which a CPU does not have.
        launcher = [
            "accelerate.commands.launch",
            "--config_file",
            str(ROOT / "examples/configs/accelerate_zero3.yaml"),
        ]
        launcher += ["--num_processes", "2", "--mixed_precision", "no", "--zero_stage", setup[-1]]
        launcher += ["--main_process_port", str(free_port())]
        environment["DS_ACCELERATOR"] = "cpu"
    else:
        launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        environment |= _FSDP if setup == "fsdp2" else {}
    program = ["-m", "tests.distributed.program", setup, str(models), str(out)]
    names = os.environ.get("GENPRM_TRAININGS", "").split()  # some of them, while working on one
    started = time.monotonic()
    with (out / "log").open("wb") as log:
        job = subprocess.Popen(
            [sys.executable, "-m", *launcher, *program, *names], cwd=out, env=environment, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = job.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            code = -1
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
                job.wait()
    return Finished(out, code, (out / "log").read_text(errors="replace"), time.monotonic() - started)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
