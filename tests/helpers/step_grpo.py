"""Step GRPO on a tiny model: prompts, scripted completions, rewards, and a trainer made of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig

from genprm_trl.training.step_grpo.trainer import StepGRPOConfig, StepGRPOTrainer
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PROMPTS = ["What is 2 + 3?", "What is 4 * 5?", "What is 7 - 1?", "What is 8 / 2?"]
# What the scripted rollouts answer: steps that end in ! are good ones.
TEXTS = [
    "Step 1: two!\nStep 2: five!",
    "Step 1: two!\nStep 2: six",
    "Step 1: three\nStep 2: four!\nStep 3: five!",
    "nothing but one step",
]


def dataset(**columns: list[Any]) -> Dataset:
    return Dataset.from_dict({"prompt": PROMPTS, "answer": ["5", "20", "6", "4"], **columns})


def length_reward(completions: list[str], **kwargs: Any) -> list[float]:
    """An outcome reward that differs between any two completions of a random model."""
    return [sum(map(ord, completion)) % 97 / 97 for completion in completions]


def good_steps(prompts: Any, completions: Any, steps: list[list[str]], **kwargs: Any) -> list[list[float]]:
    return [[float(step.endswith("!")) for step in completion] for completion in steps]


async def good_steps_async(prompts: Any, completions: Any, steps: list[list[str]], **kwargs: Any) -> list[list[float]]:
    return good_steps(prompts, completions, steps)


def last_letter_steps(prompts: Any, completions: Any, steps: list[list[str]], **kwargs: Any) -> list[list[float]]:
    """Step rewards for the text of a random model."""
    return [[ord(step[-1]) % 11 / 10 for step in completion] for completion in steps]


def scripted(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """A rollout that gives the same texts to every prompt, by the place in its group."""
    place: dict[str, int] = {}
    texts = []
    for prompt in prompts:
        key = json.dumps(prompt)
        texts.append(TEXTS[place.setdefault(key, 0) % len(TEXTS)])
        place[key] += 1
    completion_ids = [[*TOKENIZER.encode(text, add_special_tokens=False), TOKENIZER.eos_token_id] for text in texts]
    return {
        "prompt_ids": [TOKENIZER.encode(str(prompt), add_special_tokens=False) for prompt in prompts],
        "completion_ids": completion_ids,
        "logprobs": [[-1.0] * len(ids) for ids in completion_ids],
    }


def options(directory: Path, **changes: Any) -> dict[str, Any]:
    return {
        "output_dir": str(directory / "run"),
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 12,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "seed": 3,
        **changes,
    }


class Watch(TrainerCallback):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(dict(logs))

    def values(self, name: str) -> list[float]:
        return [log[name] for log in self.logs if name in log]


def make(directory: Path, kind: type = StepGRPOTrainer, watch: Watch | None = None, **changes: Any) -> Any:
    of_trainer = (
        "reward_funcs", "step_reward_func", "outcome", "rollout_func", "peft_config", "eval_dataset", "train_dataset",
    )  # fmt: skip
    arguments = {key: changes.pop(key) for key in of_trainer if key in changes}
    arguments.setdefault("train_dataset", dataset())
    config = (StepGRPOConfig if kind is StepGRPOTrainer else GRPOConfig)(**options(directory, **changes))
    # A path, since TRL loads the reference model of `beta` from where the policy came from.
    path = directory / "model"
    if not path.exists():
        copy.deepcopy(tiny_model()).save_pretrained(path)
    return kind(
        str(path),
        args=config,
        processing_class=TOKENIZER,
        callbacks=[watch] if watch else None,
        **arguments,
    )


def advantages_of(trainer: Any, prompts: list[str] = PROMPTS[:1]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The batch of one generation for these prompts, in their order."""
    trainer.model.train()
    rows = [{"prompt": prompt, "answer": "5"} for prompt in prompts for _ in range(trainer.num_generations)]
    output = trainer._generate_and_score_completions(rows)
    return output["advantages"], output


def advantages_and_losses(directory: Path, batch_size: int) -> dict[str, Any]:
    """A short run under several rules, as JSON; run by one process, or by each of two."""
    watch, seen = Watch(), []

    def outcome(completions: list[str], **kwargs: Any) -> list[float]:
        return [float("five" in completion) for completion in completions]

    for credit, scale, baseline, generations, keep in (
        ("process", "group", "step", 2, None), ("process", "batch", "step", 2, None),
        ("min_form", "batch", "token", 2, None), ("discounted", "none", "step", 2, None),
        ("min_form", "none", "return", 4, 2),
    ):  # fmt: skip
        trainer = make(
            directory, watch=watch, reward_funcs=[outcome], step_reward_func=good_steps,
            rollout_func=scripted_by_prompt, step_style="step", credit=credit, scale_step_rewards=scale,
            step_baseline=baseline, per_device_train_batch_size=batch_size, num_generations=generations, max_steps=1,
            keep_consistent=keep,
        )  # fmt: skip
        original = trainer._generate_and_score_completions

        def keep(rows, original=original, trainer=trainer):
            output = original(rows)
            gather = trainer.accelerator.gather
            advantages = output["advantages"] * output["completion_mask"]  # padding is longer in one process
            padded = torch.nn.functional.pad(advantages, (0, 64 - advantages.shape[1]))
            seen.append(gather(padded.contiguous()).tolist())
            return output

        trainer._generate_and_score_completions = keep
        trainer.train()
    return {
        "main": trainer.accelerator.is_main_process,
        "processes": trainer.accelerator.num_processes,
        "advantages": seen,
        "gap": watch.values("process_outcome/gap"),
        "idle": watch.values("steps/count"),
    }


def scripted_by_prompt(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """Different texts for different prompts, the same in whatever process: the group is spread over them."""
    first = trainer.accelerator.process_index * len(prompts)
    texts = [TEXTS[(PROMPTS.index(prompt) + first + place) % 4] for place, prompt in enumerate(prompts)]
    completion_ids = [[*TOKENIZER.encode(text, add_special_tokens=False), TOKENIZER.eos_token_id] for text in texts]
    return {
        "prompt_ids": [TOKENIZER.encode(str(prompt), add_special_tokens=False) for prompt in prompts],
        "completion_ids": completion_ids,
        "logprobs": [[-1.0] * len(ids) for ids in completion_ids],
    }
