"""What the commands that train a scorer of steps share: what they read, and those whose threshold is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genprm_trl.cli import console
from genprm_trl.cli.training import (
    EvaluatedOptions,
    HeldOut,
    ModelOptions,
    checked_modules,
    described_data,
    last_figures,
    open_training,
)
from genprm_trl.errors import ConfigError
from genprm_trl.options.sources import RowOptions

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(kw_only=True)
class ScorerOptions(RowOptions, EvaluatedOptions):
    """The options of a command that trains a scorer of steps."""

    def check(self, args: Any, model_options: ModelOptions, *, new_head: bool) -> None:
        """Checks what needs no data.

        Args:
            args: The trainer's arguments.
            model_options: The options of the model.
            new_head: Whether the model gets a new head.

        Raises:
            ConfigError: Options are missing or contradict each other.
        """
        self.check_evaluation(args)
        if new_head and (model_options.load_in_4bit or model_options.load_in_8bit):
            raise ConfigError("leave out --load_in_4bit and --load_in_8bit: the new head would be quantized, too")

    def read(
        self, load: Callable[..., Dataset], *, of_training: Mapping[str, Any] | None = None, **reading: Any
    ) -> tuple[Dataset, Dataset | None]:
        """Reads the rows to train on, and those to evaluate on if there are any.

        Args:
            load: What reads a file or dataset.
            of_training: Its arguments for the rows to train on alone.
            **reading: Its arguments besides those that all readers of rows have.

        Raises:
            DataError: A row is bad.
        """
        reading |= self.arguments()
        rows = load(self.data, on_format=console.print_format, **reading, **(of_training or {}))
        if self.eval_data is None:
            return rows, None
        return rows, load(self.eval_data, **reading | {"split": self.eval_split, "limit": None})


@dataclass(kw_only=True)
class ThresholdOptions(ScorerOptions):
    """The options of a training after which a threshold is chosen."""

    threshold_data: str | None = field(
        default=None,
        metadata={
            "help": "Held-out solutions with step labels, on which the threshold of the finished model is chosen (the "
            "best F1). Never the ones on which you report a score. Default: the threshold is 0.5.",
            "reads": "rows",
        },
    )
    threshold_split: str | None = field(default=None, metadata={"help": "Split of that data."})

    def held_out(self, trained: Any) -> HeldOut | None:
        """The solutions on which the threshold is chosen; None if no data are named for it.

        Args:
            trained: The problems of the training data.

        Raises:
            DataError: A row is bad, has no label, or has a problem that is trained on.
        """
        if self.threshold_data is None:
            if self.threshold_split is not None:
                raise ConfigError("--threshold_split needs --threshold_data")
            return None
        from genprm_trl.data.solutions import load_solutions
        from genprm_trl.training.threshold import check_held_out

        reading = self.arguments() | {"split": self.threshold_split, "limit": None, "format": "auto"}
        solutions = load_solutions(self.threshold_data, **reading)
        check_held_out(solutions, trained, self.threshold_data)
        return HeldOut(solutions, Path(self.threshold_data).name)


def train_scorer(
    name: str,
    options: ThresholdOptions,
    args: Any,
    model_options: ModelOptions,
    *,
    load: Callable[..., Dataset],
    trainer_class: Callable[..., Any],
    figures: Mapping[str, str],
    **reading: Any,
) -> None:
    """Trains a scorer with a `step_scorer.json`, and chooses its threshold. All data are read before the model.

    Args:
        name: The command's name.
        options: Its own options.
        args: The trainer's arguments.
        model_options: The options of the model.
        load: What reads rows.
        trainer_class: The trainer.
        figures: What the summary calls the figures that the trainer logs.
        **reading: Arguments of `load` besides those that all readers of rows have.
    """
    rows, eval_rows = options.read(load, **reading)
    held_out = options.held_out(rows["problem"])
    decisive = options.what_evaluation_decides(args, eval_rows)
    training = open_training(name, options, args, model_options, rows, held_out, **decisive)
    if training is None:
        return
    with checked_modules():
        trainer = trainer_class(**training.arguments, args=args, train_dataset=rows, eval_dataset=eval_rows)
    if held_out is not None and (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
        raise ConfigError(
            "a threshold is chosen with the whole model in one process, which DeepSpeed and FSDP do not keep: leave "
            "--threshold_data out, and when the training is finished, give it to the same command without them"
        )
    trainer.described_data = described_data(options.data, training.settings)

    def summary(trainer: Any) -> list[str]:
        return [f"{'threshold':<22}{trainer.settings.threshold:.4g}", *last_figures(trainer, figures)]

    training.train(trainer, summary)
