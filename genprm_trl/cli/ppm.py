"""Train a process preference model on pairs of steps of labelled solutions, with TRL (rStar-Math).

DATA is a file or dataset of solutions with step labels, several of each problem, in any format that `genprm verify`
reads. Where solutions of a problem begin alike, the steps that they go on with are compared: by the Monte Carlo
estimates (mc) that `genprm label` writes, or by the labels. Whole solutions are compared by their outcomes. The other
options are those of TRL's RewardTrainer. To resume from the last checkpoint, run the same command again. A run with
other data or options is refused, but for a longer one. On several GPUs: accelerate launch -m genprm_trl ppm DATA ...
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genprm_trl.cli import console
from genprm_trl.cli.training import (
    EvaluatedOptions,
    ModelOptions,
    ThresholdOptions,
    checked_directory,
    described_data,
    last_figures,
    open_training,
    read_held_out,
)
from genprm_trl.errors import ConfigError, check_at_least
from genprm_trl.options.sources import RowOptions
from genprm_trl.rows.digests import content_digest
from genprm_trl.training.ppm.trainer import PPMConfig


@dataclass(kw_only=True)
class PPMOptions(RowOptions, ThresholdOptions, EvaluatedOptions):
    """The options of `genprm ppm` that TRL does not have."""

    pair_margin: float = field(
        default=0.5,
        metadata={
            "help": "Drop pairs whose values differ by less. The value of a step is 2y - 1, where y is its Monte "
            "Carlo estimate, or 1 or 0 by its label."
        },
    )


def run(options: PPMOptions, args: PPMConfig, model_options: ModelOptions) -> int:
    """Trains a process preference model, and resumes from the last checkpoint if the same run has left one.

    All data are read before the model is loaded.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: Options are missing or contradict each other, or the checkpoints are those of another run.
        DataError: A row is bad, there is no pair, or another training runs in the output directory.
    """
    if (args.eval_strategy != "no") != (options.eval_data is not None):
        raise ConfigError("evaluation needs both --eval_data and --eval_strategy steps or epoch")
    if model_options.load_in_4bit or model_options.load_in_8bit:
        raise ConfigError("leave out --load_in_4bit and --load_in_8bit: the new head would be quantized, too")
    check_at_least(0, pair_margin=options.pair_margin)
    with checked_directory(args, model_options):
        _train(options, args, model_options)
    return 0


def _train(options: PPMOptions, args: PPMConfig, model_options: ModelOptions) -> None:
    from genprm_trl.training.ppm.pairs import load_pairs
    from genprm_trl.training.ppm.trainer import PPMTrainer

    reading = {"margin": options.pair_margin, **options.arguments()}
    rows = load_pairs(options.data, on_format=console.print_format, **reading)
    eval_rows = None
    if options.eval_data is not None:
        eval_rows = load_pairs(options.eval_data, **reading | {"split": options.eval_split, "limit": None})
    held_out = read_held_out(options, rows["problem"])
    decisive: dict[str, Any] = {}
    if args.load_best_model_at_end:  # then evaluation decides which weights are taken
        decisive = {"eval_split": options.eval_split, "eval_rows": content_digest(list(eval_rows or []))}
    if held_out is not None:
        decisive["threshold_rows"] = content_digest([each.to_dict() for each in held_out])
    training = open_training("ppm", options, args, model_options, rows, **decisive)
    if training is None:
        return
    trainer = PPMTrainer(**training.arguments, args=args, train_dataset=rows, eval_dataset=eval_rows)
    trainer.described_data = described_data(options.data, training.settings)
    if held_out is not None:
        trainer.choose_threshold_on(held_out, Path(str(options.threshold_data)).name)
    training.train(trainer, _summary)


def _summary(trainer: Any) -> list[str]:
    names = {"train loss": "loss", "eval loss": "eval_loss", "pairs told": "eval_accuracy"}
    threshold = f"{'threshold':<22}{trainer.settings.threshold:.4g}"
    return [threshold, *last_figures(trainer, names)]
