"""The model's card, as a trainer writes it: what it knows about its own run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow.compute as compute
from datasets import Dataset, IterableDataset
from transformers import Trainer

from genprm_trl.cards.card import CITATION
from genprm_trl.cards.model_card import CardContent, MeasuredScore, ModelKind, write_model_card
from genprm_trl.errors import ConfigError
from genprm_trl.training.scores import IGNORED

if TYPE_CHECKING:
    from genprm_trl.training.options import TrainerOptions

# Of the machine, the account and the way of reporting, not of the model.
_NOT_OF_THE_MODEL = re.compile(
    r"output_dir|logging_dir|run_name|.*token|.*hub.*|report_to|project|.*trackio.*|disable_tqdm|log_.*|logging_.*"
    r"|resume_from_checkpoint|.*local_rank|do_(train|eval|predict)|save_.*|.*num_workers|.*num_proc|.*_dir"
)


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


class CardWriter(Trainer):
    """What the trainers of both kinds of reward models do for the card. Named before a trainer class of TRL.

    Attributes:
        card_kind: What the model is.
        card_citation: BibTeX of the work to cite.
        described_data: What the caller knows of the training data.
    """

    card_kind: ClassVar[ModelKind]
    card_citation: ClassVar[str] = CITATION
    described_data: DescribedData | None = None

    def card_training(self) -> dict[str, Any]:
        """Facts of this kind of training, for the card's table."""
        return {}

    def card_data(self) -> dict[str, Any]:
        """Counts of the training data, for the card's table."""
        return row_facts(self.train_dataset)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model, and a model card to `args.output_dir`."""
        super().save_model(output_dir, _internal_call)
        if not _internal_call:
            self.create_model_card(model_name=Path(self.args.hub_model_id or self.args.output_dir).name)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether the metrics are the best ones so far. Scores of steps are undefined where a class has no rows."""
        try:
            return bool(super()._determine_best_metric(metrics, trial))
        except KeyError as error:
            raise ConfigError(
                f"metric_for_best_model is {self.args.metric_for_best_model!r}, which this evaluation does not have "
                f"({', '.join(sorted(metrics))}); f1 needs rows with a wrong step and rows without one"
            ) from error

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Writes `README.md` to `args.output_dir`. Asks nothing of a hub.

        Args:
            model_name: Title of the card.
            dataset_name: What the model was trained on.
            tags: Tags besides the trainer's own.
        """
        if not self.is_world_process_zero():
            return
        base_model, args = self.model.config.name_or_path, self.args
        data = self.described_data or DescribedData(dataset_name)
        content = CardContent(
            name=model_name or Path(args.output_dir).name,
            description=f"Trained on {data.name}." if data.name else "",
            scores=measured_while_training(self),
            training={
                "trainer": f"genprm_trl.{type(self).__name__}",
                **self.card_training(),
                **training_facts(self),
            },
            data={**self.card_data(), **data.facts},
            recipe=data.recipe,
            arguments=changed_arguments(args),
            base_model=None if not base_model or Path(base_model).exists() else base_model,
            datasets=(data.hub_id,) if data.hub_id else (),
            tags=(tags,) if isinstance(tags, str) else tuple(tags or ()),
            model_id=args.hub_model_id,
            kind=self.card_kind,
            citation=self.card_citation,
        )
        write_model_card(args.output_dir, content)


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
    """The options that somebody has set, as JSON values. Paths, accounts and tokens are left out."""
    values = args.to_dict()
    return {name: values[name] for name in args.changed() if name in values and not _NOT_OF_THE_MODEL.fullmatch(name)}


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
