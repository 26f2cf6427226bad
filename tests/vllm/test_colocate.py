"""The recipe for eight GPUs in miniature: step GRPO with its policy in vLLM, in the processes of the trainer."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2ForCausalLM

from tests.helpers.jobs import Finished, accelerate_zero, launch, torchrun
from tests.helpers.judging_model import save_judging_model
from tests.helpers.step_grpo import PROMPTS, TOKENIZER
from tests.vllm.colocate import SECONDS

DEEPSPEED = Path(sys.prefix) / "deepspeed"  # where `make test-vllm` puts it, so that no other test finds it

# How far log-probabilities of the engine and of the trainer are apart, both in float32.
SAME = 1e-4


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("verifier")
    save_judging_model(directory)
    return directory


def train(policy: Path, verifier: Path, out: Path, *, processes: int, zero: int | None = None) -> Finished:
    (out / "model").symlink_to(policy)
    launcher = torchrun(processes) if zero is None else accelerate_zero(processes, zero)
    program = ["tests.vllm.colocate", str(verifier), str(out)]
    return launch(launcher, program, out, seconds=SECONDS + 60, deepspeed=DEEPSPEED if zero else None)


@pytest.mark.parametrize(("processes", "zero"), [(1, None), (2, 3)], ids=["one process", "ZeRO-3 in two processes"])
def test_step_grpo(wide_model_dir: Path, verifier: Path, tmp_path: Path, processes: int, zero: int | None) -> None:
    job = train(wide_model_dir, verifier, tmp_path, processes=processes, zero=zero)
    for rank in range(processes):
        check([entry for entry in job.told(f"rank{rank}") if "loss" in entry])
    assert job.code == 0, job.log[-20000:]
    # Had the engine kept the first weights, then its log-probabilities would be this far from the trainer's.
    assert apart(wide_model_dir, job.out / "run") > 100 * SAME


def check(steps: list[dict[str, Any]]) -> None:
    assert len(steps) == 3
    assert all(math.isfinite(step["loss"]) and step["grad_norm"] > 0 for step in steps)
    # The last two are from after an update of the weights.
    assert [step["sampling/sampling_logp_difference/mean"] for step in steps] == pytest.approx([0] * 3, abs=SAME)
    rewards = [step["rewards/GenPRMReward/mean"] for step in steps]
    assert all(0 < reward < 1 for reward in rewards)
    assert len(set(rewards)) == 3
    assert all(step["rewards/GenPRMReward/std"] > 0 for step in steps)


@torch.no_grad()
def apart(first: Path, last: Path) -> float:
    """How far two models' log-probabilities of the next token are apart, on average over all tokens."""
    prompts = [torch.tensor([TOKENIZER.encode(prompt)]) for prompt in PROMPTS]
    models = [Qwen2ForCausalLM.from_pretrained(path) for path in (first, last)]
    one, other = (torch.cat([model(ids).logits.log_softmax(-1) for ids in prompts], 1) for model in models)
    return float((one - other).abs().mean())
