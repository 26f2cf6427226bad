"""Train a discriminative process reward model on solutions with step labels, with TRL.

DATA is a file or dataset of solutions with labels, in any format that `genprm verify` reads: ProcessBench, PRM800K,
Math-Shepherd, stepwise supervision, what `genprm label` wrote, or rationale records. With --soft_labels the targets
are Monte Carlo estimates, as `genprm label` writes them. --head_epochs trains the new head alone first. The other
options are those of `PRMTrainer`. To resume from the last checkpoint, run the same command again. A run with other
data or options is refused, but for a longer one. On several GPUs: accelerate launch -m genprm_trl prm DATA ...
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genprm_trl.cli.scorers import ScorerOptions
from genprm_trl.cli.training import (
    ModelOptions,
    checked_directory,
    checked_modules,
    described_data,
    last_figures,
    open_training,
)
from genprm_trl.errors import ConfigError, check_at_least, check_positive
from genprm_trl.training.prm.trainer import PRMConfig

if TYPE_CHECKING:
    from datasets import Dataset

HEAD = "head"  # the directory, inside of the output, of the model whose head alone was trained


@dataclass(kw_only=True)
class PRMOptions(ScorerOptions):
    """The options of `genprm prm` that `PRMTrainer` does not have."""

    head_epochs: float = field(
        default=0,
        metadata={
            "help": "Train the head alone for so many epochs first. That model stays in the directory "
            f"{HEAD} of the output. 0: train all weights from the beginning."
        },
    )
    head_learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate of that first training."})


def run(options: PRMOptions, args: PRMConfig, model_options: ModelOptions) -> int:
    """Trains a discriminative model, and resumes from the last checkpoint if the same run has left one.

    All data are read before the model is loaded.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: Options are missing or contradict each other, or the checkpoints are those of another run.
        DataError: A row is bad, or another training runs in the output directory.
    """
    options.check(args, model_options, new_head=True)
    check_at_least(0, head_epochs=options.head_epochs)
    check_positive(head_learning_rate=options.head_learning_rate)
    if options.head_epochs:
        _check_two_stages(args, model_options)
    model_options.lora_task_type = "TOKEN_CLS"  # the one in which an adapter has the head
    with checked_directory(args, model_options):
        _train(options, args, model_options)
    return 0


def _check_two_stages(args: PRMConfig, model_options: ModelOptions) -> None:
    if args.train_head_only or model_options.use_peft:
        other = "--use_peft, which trains the head with the adapter" if model_options.use_peft else "--train_head_only"
        raise ConfigError(f"give either --head_epochs or {other}")
    if args.resume_from_checkpoint is not None:
        raise ConfigError("--head_epochs finds its own checkpoints: leave out --resume_from_checkpoint")
    if args.deepspeed_plugin is not None:
        raise ConfigError(
            "DeepSpeed trains one model a process: run the command with --train_head_only first, and then with its "
            "output as --model, in place of --head_epochs"
        )


def _train(options: PRMOptions, args: PRMConfig, model_options: ModelOptions) -> None:
    from accelerate.utils import release_memory

    from genprm_trl.training.prm.data import load_labelled

    rows, eval_rows = options.read(load_labelled, of_training={"soft": args.soft_labels})
    base = model_options.model_name_or_path
    if options.head_epochs:
        output = Path(args.output_dir) / HEAD
        _stage(options, _head_arguments(options, args, output), model_options, rows, eval_rows, base, is_last=False)
        release_memory()  # of the first model
        model_options = copy.copy(model_options)
        model_options.model_name_or_path, model_options.model_revision = str(output), "main"
    _stage(options, args, model_options, rows, eval_rows, base)


def _head_arguments(options: PRMOptions, args: PRMConfig, output: Path) -> PRMConfig:
    """The arguments of a training of the head alone."""
    head = copy.copy(args)
    head.output_dir, head.train_head_only, head.push_to_hub = str(output), True, False
    head.learning_rate, head.num_train_epochs, head.max_steps = options.head_learning_rate, options.head_epochs, -1
    return head


def _stage(
    options: PRMOptions,
    args: PRMConfig,
    model_options: ModelOptions,
    rows: Dataset,
    eval_rows: Dataset | None,
    base: str | None,
    *,
    is_last: bool = True,
) -> None:
    from genprm_trl.training.prm.trainer import PRMTrainer

    evaluated = options.what_evaluation_decides(args, eval_rows)
    training = open_training("prm", options, args, model_options, rows, **evaluated)
    if training is None:
        return
    arguments = {name: value for name, value in training.arguments.items() if name != "quantization_config"}
    with checked_modules():
        trainer = PRMTrainer(**arguments, args=args, train_dataset=rows, eval_dataset=eval_rows)
    trainer.model.config.name_or_path = base  # of which the card tells
    trainer.described_data = described_data(options.data, training.settings)
    training.train(trainer, _summary, is_last=is_last)


def _summary(trainer: Any) -> list[str]:
    names = {"train loss": "loss", "eval loss": "eval_loss", "step accuracy": "eval_accuracy", "F1": "eval_f1"}
    return last_figures(trainer, names)
