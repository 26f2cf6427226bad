"""The model's card, as a trainer writes it: what it knows about its own run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow.compute as compute
from datasets import Dataset, IterableDataset
from transformers import Trainer

from genprm_trl.cards.model_card import MeasuredScore
from genprm_trl.training.scores import IGNORED

if TYPE_CHECKING:
    from genprm_trl.training.options import TrainerOptions


@dataclass(frozen=True, slots=True)
class DescribedData:
    """What the caller knows of the training data, for the card.

    Attributes:
        name: Name of the data.
        hub_id: Id of the data on the Hub, if they are there.
        facts: Rows of a table, after the trainer's own counts.
        recipe: How the data were made, as Markdown.
    """

    name: str | None = None
    hub_id: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""


def training_facts(trainer: Trainer) -> dict[str, Any]:
    """The facts that everyone asks about first."""
    args, state = trainer.args, trainer.state
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    facts = {
        "learning rate": args.learning_rate,
        "schedule": f"{_text(args.lr_scheduler_type)}, warm-up {args.warmup_steps:g}",
        "optimizer": _text(args.optim),
        "batch": f"{batch} ({args.world_size} × {args.per_device_train_batch_size} × "
        f"{args.gradient_accumulation_steps}: processes, rows each, accumulated)",
        "steps": state.global_step,
        "continued at step": ", ".join(map(str, getattr(trainer, "continued_at", ()))) or None,
        "epochs": None if state.epoch is None else round(state.epoch, 3),
        "precision": "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32",
        "seed": args.seed,
        "training loss, last logged": losses[-1] if losses else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def changed_arguments(args: TrainerOptions) -> dict[str, Any]:
    """The options of the training that somebody has set, as JSON values. Paths and accounts are left out."""
    values = args.decisive(pace=True)
    return {name: values[name] for name in args.changed() if name in values}


def row_facts(dataset: Dataset | IterableDataset) -> dict[str, str]:
    """Counts of a dataset that is ready for training: rows, tokens, and tokens that are trained on.

    Args:
        dataset: A dataset with the columns `input_ids` and `labels`. A streamed one is not counted.
    """
    if not isinstance(dataset, Dataset):
        return {"rows": "streamed, not counted"}
    tokens = trained = 0
    for batch in dataset.select_columns(["input_ids", "labels"]).with_format("arrow").iter(1000):
        tokens += len(compute.list_flatten(batch["input_ids"]))
        trained += compute.sum(compute.not_equal(compute.list_flatten(batch["labels"]), IGNORED)).as_py() or 0
    return {"rows": f"{len(dataset):,}", "tokens": f"{tokens:,}", "tokens trained on": f"{trained:,}"}


def measured_while_training(trainer: Trainer) -> list[MeasuredScore]:
    """The scores that callbacks have measured with the weights as they are now."""
    callbacks = (each for each in trainer.callback_handler.callbacks if hasattr(each, "measured"))
    return [score for callback in callbacks for score in callback.measured(trainer.state)]


def _text(value: Any) -> Any:
    """An enumeration's value; anything else as it is."""
    return getattr(value, "value", value)
