"""Trainings of a real model: the whole model and an adapter, a scorer of steps, and three kinds of GRPO."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from trl import GRPOConfig, GRPOTrainer

from genprm_trl import GenPRM, GenPRMReward, PRMConfig, PRMTrainer
from genprm_trl.conversation.settings import load_settings
from genprm_trl.generation.loading import load_model
from genprm_trl.protocol.genprm import GenPRMProtocol
from genprm_trl.rewards import rationale_format_reward, verdict_agreement_reward
from genprm_trl.sandbox import LocalSandbox
from genprm_trl.training import VerifierRollout, verifier_dataset
from genprm_trl.training.prm.scorer import PRMScorer
from tests.real.conftest import PROBLEMS, SOLUTIONS, TRAINING, check_verdict, genprm

ADAPTER = {"use_peft": "true", "lora_r": 4, "learning_rate": 1e-3}
LORA = LoraConfig(r=4, task_type="CAUSAL_LM")
SAMPLED = {"num_generations": 2, "per_device_train_batch_size": 2, "max_completion_length": 24}


def options(path: Path, **changes: Any) -> dict[str, Any]:
    """Those of a trainer that is made here."""
    common = {**TRAINING, "bf16": False, "use_cpu": True, "gradient_checkpointing": False, "disable_tqdm": True}
    dtype = common.pop("dtype")
    return {"output_dir": str(path), **common, "model_init_kwargs": {"dtype": dtype}, "max_steps": 1, **changes}


def check_log(history: list[dict[str, Any]], steps: int, *names: str) -> None:
    """Losses are numbers, and rewards are within [0, 1]."""
    assert [entry["step"] for entry in history if "loss" in entry] == list(range(1, steps + 1))
    assert all(math.isfinite(entry["loss"]) for entry in history if "loss" in entry)
    for name in names:
        [*values] = [entry[f"rewards/{name}/mean"] for entry in history if f"rewards/{name}/mean" in entry]
        assert len(values) == steps
        assert all(value is None or 0 <= value <= 1 for value in values)


def judges(path: Path) -> None:
    """The directory holds a verifier that says how it is asked."""
    with GenPRM.from_pretrained(str(path), max_step_tokens=48) as prm:
        [verdict] = prm.verify_all(SOLUTIONS[:1], progress=False)
    check_verdict(verdict, SOLUTIONS[0])


def test_fine_tuning_changes_every_weight_and_leaves_a_verifier_with_a_card(verifier, base):
    settings = load_settings(verifier)
    assert settings is not None
    assert settings.modes == ("code_execution",)
    assert "genprm" in (Path(verifier) / "README.md").read_text(encoding="utf-8").lower()
    before, after = (load_model(path, dtype=torch.float32).state_dict() for path in (base, verifier))
    assert before.keys() == after.keys()
    assert not [name for name in before if torch.equal(before[name], after[name])]


def test_an_adapter_is_trained_and_a_run_that_was_cut_short_ends_alike(base, rationales, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = {**TRAINING, **ADAPTER, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 1}
    words |= {"model": base, "mode": "direct", "max_steps": 2}
    assert genprm("sft", rationales, output_dir=whole, **words) == 0
    state = json.loads((whole / "checkpoint-2" / "trainer_state.json").read_text(encoding="utf-8"))
    check_log(state["log_history"], 2)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoint-2")
    for path in cut.iterdir():
        if path.is_file() and path.suffix == ".safetensors":
            path.unlink()
    assert genprm("sft", rationales, output_dir=cut, **words) == 0
    first, second = (load_file(path / "adapter_model.safetensors") for path in (whole, cut))
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight)
    assert genprm("sft", rationales, output_dir=cut, **words) == 0  # it is finished
    judges(cut)


def test_a_scorer_of_steps_learns_and_is_read_again(base, tmp_path):
    rows = [solution.to_dict() for solution in SOLUTIONS]
    trainer = PRMTrainer(base, PRMConfig(**options(tmp_path, per_device_train_batch_size=2)), train_dataset=rows)
    trainer.train()
    check_log(trainer.state.log_history, 1)
    trainer.save_model()
    assert (tmp_path / "README.md").is_file()
    verdicts = PRMScorer(str(tmp_path)).score(SOLUTIONS)
    expected = PRMScorer(trainer.model, trainer.processing_class).score(SOLUTIONS)
    for solution, verdict, other in zip(SOLUTIONS, verdicts, expected, strict=True):
        assert verdict.rewards == pytest.approx(other.rewards, abs=1e-4)
        assert len(verdict.rewards) == len(solution.steps)
        assert all(0 <= reward <= 1 for reward in verdict.rewards)


def test_grpo_of_trl_takes_rewards_from_a_verifier(base, verifier, tmp_path):
    reward = GenPRMReward(verifier, mode="direct", max_step_tokens=24)
    trainer = GRPOTrainer(
        base,
        reward,
        GRPOConfig(**options(tmp_path, **SAMPLED)),
        Dataset.from_list([{"prompt": [{"role": "user", "content": PROBLEMS[0]["problem"]}]}]),
        peft_config=LORA,
    )
    trainer.train()
    check_log(trainer.state.log_history, 1, "GenPRMReward")
    trainer.save_model()
    assert load_model(tmp_path).num_parameters() > 0


def test_the_command_rewards_steps_and_goes_on(base, verifier, problems, tmp_path):
    output = tmp_path / "policy"
    reward = write_reward(tmp_path / "reward.yaml", verifier)
    words = {**TRAINING, **ADAPTER, **SAMPLED, "reward_config": reward, "step_style": "line", "output_dir": output}
    words |= {"model": base, "save_strategy": "steps", "save_steps": 1}
    for steps in (1, 2):
        assert genprm("grpo", problems, max_steps=steps, lr_scheduler_type="constant", **words) == 0
    state = json.loads((output / "checkpoint-2" / "trainer_state.json").read_text(encoding="utf-8"))
    check_log(state["log_history"], 2, "answer_reward", "GenPRMReward")
    assert load_model(output).num_parameters() > 0
    before = (output / "adapter_model.safetensors").stat().st_mtime_ns
    assert genprm("grpo", problems, max_steps=2, lr_scheduler_type="constant", **words) == 0
    assert (output / "adapter_model.safetensors").stat().st_mtime_ns == before


def write_reward(path: Path, verifier: str) -> Path:
    path.write_text(f"verifier: {verifier}\nmode: direct\nmax_step_tokens: 24\n", encoding="utf-8")
    return path


def test_a_verifier_learns_from_its_own_verdicts_with_code_that_runs(verifier, tmp_path):
    protocol = GenPRMProtocol("code_execution", max_step_tokens=48, max_code_rounds=1)
    rollout = VerifierRollout(protocol, sandbox=LocalSandbox())
    trainer = GRPOTrainer(
        verifier,
        [verdict_agreement_reward, rationale_format_reward],
        GRPOConfig(**options(tmp_path, **SAMPLED | {"max_completion_length": 400})),
        verifier_dataset(SOLUTIONS[:1]),
        rollout_func=rollout,
        peft_config=LORA,
    )
    trainer.train()
    check_log(trainer.state.log_history, 1, "verdict_agreement_reward", "rationale_format_reward")
    trainer.save_model()
    rollout.settings.save(tmp_path)
    judges(tmp_path)
