"""Trainings with DeepSpeed and FSDP in two processes are the trainings of two plain processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.conftest import PLAIN, SHARDED
from tests.helpers.jobs import Finished

Jobs = Callable[[str], Finished]

ROUNDED = ("sft_bf16", "step_bf16")
EXACT = (
    "sft", "sft_lora", "sft_one_solution", "grpo_reward", "step_outcome", "step_process", "step_min_form", "step_lora",
    "step_early_ends", "step_scorer", "implicit", "prm", "rollout",
)  # fmt: skip
RESUMED = ("step_min_form", "implicit")

# Gradients are summed in another order: rounding of float32, after at most four steps at a learning rate of 1e-2.
LOGS, WEIGHTS = 1e-3, 2e-5
# DeepSpeed computes in bfloat16 throughout, plain processes in bfloat16 for matrix products.
ROUNDED_LOSS, ROUNDED_WEIGHTS = 0.1, 1e-2

_TIMES = ("runtime", "per_second", "_time", "seconds", "total_flos")


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("setup", SHARDED)
def test_a_sharded_training_is_the_plain_one(jobs: Jobs, setup: str, name: str) -> None:
    plain, sharded = jobs(PLAIN), jobs(setup)
    expected, told = dict(numbers(plain.told(name))), dict(numbers(sharded.told(name)))
    assert told.keys() == expected.keys()
    assert any("loss" in key for key in expected)
    for key, value in expected.items():
        assert told[key] == pytest.approx(value, rel=LOGS, abs=LOGS, nan_ok=True), key
    assert apart(plain.weights(name), sharded.weights(name)) <= WEIGHTS


@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("setup", SHARDED)
def test_in_bfloat16_a_sharded_training_is_nearly_the_plain_one(jobs: Jobs, setup: str, name: str) -> None:
    plain, sharded = jobs(PLAIN), jobs(setup)
    (expected, *_), (first, *rest) = (losses(job.told(name)) for job in (plain, sharded))
    assert first == pytest.approx(expected, abs=ROUNDED_LOSS)
    assert all(map(math.isfinite, rest))
    assert apart(plain.weights(name), sharded.weights(name)) <= ROUNDED_WEIGHTS


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("setup", [PLAIN, *SHARDED])
def test_a_resumed_training_ends_as_the_whole_one(jobs: Jobs, setup: str, name: str) -> None:
    job = jobs(setup)
    told = job.told(name)
    assert losses({"logs": told["resumed"]}) == pytest.approx(losses(told), abs=LOGS)
    assert apart(job.weights(name), job.weights(f"{name}_resumed")) <= WEIGHTS


@pytest.mark.parametrize("setup", SHARDED)
def test_the_implicit_reward_model_learns_the_same(jobs: Jobs, setup: str) -> None:
    saved = "implicit/checkpoint-4/implicit_prm/model.safetensors"
    plain, sharded = (load_file(jobs(one).out / saved) for one in (PLAIN, setup))
    assert apart(plain, sharded) <= WEIGHTS


@pytest.mark.parametrize("command", ["sft", "grpo"])
@pytest.mark.parametrize("setup", SHARDED)
def test_commands_train_and_are_finished_when_started_again(jobs: Jobs, setup: str, command: str) -> None:
    plain, sharded = jobs(PLAIN), jobs(setup)
    assert set(sharded.told("commands")["codes"].values()) == {0}
    assert apart(plain.weights(f"commands_{command}"), sharded.weights(f"commands_{command}")) <= WEIGHTS


@pytest.mark.parametrize("setup", [PLAIN, *SHARDED])
def test_a_failure_of_one_process_ends_the_other(jobs: Jobs, setup: str) -> None:
    job = jobs(setup)
    job.told("commands")  # the training before it
    assert job.code > 0
    assert "RuntimeError: this reward fails in the second process" in job.log
    assert "Timeout (" not in job.log, job.log[-20000:]
    assert not (job.out / "failing.json").exists()


def numbers(told: Any, at: str = "") -> Iterator[tuple[str, float]]:
    """All that was logged, by its place, without what time it took."""
    if isinstance(told, dict):
        for key, value in told.items():
            if not any(word in key for word in _TIMES):
                yield from numbers(value, f"{at}/{key}")
    elif isinstance(told, list):
        for index, value in enumerate(told):
            yield from numbers(value, f"{at}/{index}")
    elif told is not None:
        yield at, float(told)


def losses(told: dict[str, Any]) -> list[float]:
    """The losses of the last two steps, which a resumed training has, too."""
    return [entry["loss"] for entry in told["logs"] if "loss" in entry][-2:]


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """How far two saved models are apart; tied output embeddings may be saved or not."""
    assert one.keys() ^ other.keys() <= {"lm_head.weight"}
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one.keys() & other.keys())
