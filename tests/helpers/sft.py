"""Fine-tuning a tiny model: rationales, and a trainer made of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from genprm_trl import GenPRMConfig, GenPRMTrainer
from genprm_trl.protocol import CodeBlock, Rationale
from genprm_trl.records import RationaleRecord, Solution
from genprm_trl.training.callbacks import VerificationCallback
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer


def rationale(step: int, judgement: bool, code: str = "print(1)", output: str | None = "1") -> Rationale:
    return Rationale(step, judgement, f"Paragraph {step} adds.\n", (CodeBlock(code, output),), "That is it.\n")


def records(count: int = 6, steps: int = 2) -> list[RationaleRecord]:
    """Solutions whose last step is wrong in every other one, with a full rationale for each step."""
    made = []
    for i in range(count):
        labels = [True] * (steps - 1) + [i % 2 == 0]
        texts = [f"Step {t + 1}: {i} + {t} = {i + t + (not labels[t])}." for t in range(steps)]
        rationales = [
            rationale(t + 1, labels[t], f"print({i} + {t} == {i + t + (not labels[t])})", str(labels[t])).render()
            for t in range(steps)
        ]
        solution = Solution(f"s{i}", f"What is {i} + {steps - 1}?", texts, label=-1 if labels[-1] else steps - 1)
        made.append(RationaleRecord(solution, rationales, labels))
    return made


def config(path: Path, **options: Any) -> GenPRMConfig:
    defaults: dict[str, Any] = {
        "max_length": 1024,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }
    return GenPRMConfig(str(path), **(defaults | options))


def trainer(
    path: Path, rows: Any = None, *, model: Any = None, tokenizer: Any = None, **options: Any
) -> GenPRMTrainer:
    others = {
        name: options.pop(name)
        for name in ("eval_dataset", "callbacks", "peft_config", "data_collator")
        if name in options
    }
    return GenPRMTrainer(
        model if model is not None else copy.deepcopy(tiny_model()),
        args=config(path, **options),
        train_dataset=records() if rows is None else rows,
        processing_class=copy.deepcopy(tokenizer or tiny_tokenizer()),
        **others,
    )


def losses(run: GenPRMTrainer) -> list[float]:
    return [entry["loss"] for entry in run.state.log_history if "loss" in entry]


def train_and_report(path: Path, batch_size: int) -> dict[str, Any]:
    """A short run with evaluation and verification, as JSON; run by one process, or by each of several."""
    run = trainer(
        path,
        records(8),
        eval_dataset=records(5),  # not a multiple of the batches, so that padding rows would show
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        max_steps=4,
        max_grad_norm=1.0,
        use_cpu=True,
    )
    run.train()
    metrics = run.evaluate()
    solutions = [record.solution for record in records(5)]
    verified = VerificationCallback(run, solutions, mode="direct").verify()
    return {
        "processes": run.accelerator.num_processes,
        "losses": losses(run),
        "metrics": {name: metrics[f"eval_{name}"] for name in ("step_accuracy", "error_acc", "correct_acc")},
        "verified": dict(verified),
        "weights": [float(weight.detach().double().norm()) for weight in run.model.parameters()],
        "main": run.is_world_process_zero(),
    }
