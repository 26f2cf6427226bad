"""Labelled steps from which a tiny process reward model learns, and how it does."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from datasets import Dataset

from genprm_trl.training.prm.trainer import PRMConfig, PRMTrainer


def toy_rows(n: int, seed: int = 0) -> list[dict]:
    """A step is wrong iff it buys eggs. Labels of neighbours are independent: one on another step teaches nothing."""
    rng = random.Random(seed)
    rows = []
    for _ in range(n):
        labels = [rng.random() < 0.6 for _ in range(rng.randint(1, 5))]
        steps = [f"Anna buys {rng.randint(1, 9)} {'books' if ok else 'eggs'} more." for ok in labels]
        rows.append({"prompt": f"Anna has {rng.randint(1, 9)} apples.", "completions": steps, "labels": labels})
    return rows


def train_and_report(model: Path, output: Path, batch_size: int) -> dict[str, Any]:
    """A short training with evaluation and saving, as JSON; run by one process, or by each of several."""
    args = PRMConfig(
        str(output), per_device_train_batch_size=batch_size, per_device_eval_batch_size=3, max_steps=4,
        logging_steps=1, learning_rate=1e-3, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
        gradient_checkpointing=False,
    )  # fmt: skip
    trainer = PRMTrainer(
        str(model), args=args, train_dataset=Dataset.from_list(toy_rows(40)), eval_dataset=toy_rows(10, seed=1)
    )
    trainer.train()
    metrics = trainer.evaluate()
    trainer.save_model()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    scores = {name: metrics[name] for name in ("eval_accuracy", "eval_f1")}
    return {"losses": losses, "processes": args.world_size, **scores}
