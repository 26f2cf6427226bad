"""Train an implicit process reward model on solutions of which the outcome is known, with TRL. No step is labelled.

DATA is a file or dataset of solutions in any format that `genprm verify` reads, what `genprm rollout` wrote above all:
with `final_answer_correct`, with an `answer` to hold them against, or with labels. --loss_type chooses the loss. The
model that training starts from is the reference of every score, so keep it. `genprm verify --model OUTPUT` and the
other commands find both. The other options are those of TRL's KTOTrainer. To resume from the last checkpoint, run the
same command again. A run with other data or options is refused, but for a longer one. On several GPUs: accelerate
launch -m genprm_trl implicit DATA ...
"""

from __future__ import annotations

from dataclasses import dataclass
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
from genprm_trl.errors import ConfigError
from genprm_trl.options.sources import RowOptions
from genprm_trl.rows.digests import content_digest
from genprm_trl.training.implicit_prm.offline import ImplicitPRMConfig


@dataclass(kw_only=True)
class ImplicitOptions(RowOptions, ThresholdOptions, EvaluatedOptions):
    """The options of `genprm implicit` that TRL does not have."""


def run(options: ImplicitOptions, args: ImplicitPRMConfig, model_options: ModelOptions) -> int:
    """Trains an implicit PRM, and resumes from the last checkpoint if the same run has left one.

    All data are read before the model is loaded.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: Options are missing or contradict each other, or the checkpoints are those of another run.
        DataError: A row is bad, or another training runs in the output directory.
    """
    if (args.eval_strategy != "no") != (options.eval_data is not None):
        raise ConfigError("evaluation needs both --eval_data and --eval_strategy steps or epoch")
    model = str(model_options.model_name_or_path)
    if model_options.model_revision not in (None, "main") and not Path(model).is_dir():
        raise ConfigError(
            "scoring loads the reference by its name alone: download that revision, and give it with --model"
        )
    with checked_directory(args, model_options):
        _train(options, args, model_options)
    return 0


def _train(options: ImplicitOptions, args: ImplicitPRMConfig, model_options: ModelOptions) -> None:
    from genprm_trl.training.implicit_prm.offline import ImplicitPairTrainer, ImplicitPRMTrainer
    from genprm_trl.training.outcomes import load_outcomes

    reading = options.arguments()
    rows = load_outcomes(options.data, on_format=console.print_format, **reading)
    eval_rows = None
    if options.eval_data is not None:
        eval_rows = load_outcomes(options.eval_data, **reading | {"split": options.eval_split, "limit": None})
    held_out = read_held_out(options, rows["problem"])
    decisive: dict[str, Any] = {}
    if args.load_best_model_at_end:  # then evaluation decides which weights are taken
        decisive = {"eval_split": options.eval_split, "eval_rows": content_digest(list(eval_rows or []))}
    if held_out is not None:
        decisive["threshold_rows"] = content_digest([each.to_dict() for each in held_out])
    training = open_training("implicit", options, args, model_options, rows, **decisive)
    if training is None:
        return
    on_pairs = args.loss_type in ImplicitPairTrainer.losses
    trainer = (ImplicitPairTrainer if on_pairs else ImplicitPRMTrainer)(
        **training.arguments, args=args, train_dataset=rows, eval_dataset=eval_rows
    )
    trainer.described_data = described_data(options.data, training.settings)
    if held_out is not None:
        trainer.choose_threshold_on(held_out, Path(str(options.threshold_data)).name)
    training.train(trainer, _summary)


def _summary(trainer: Any) -> list[str]:
    names = {
        "train loss": "loss",
        "eval loss": "eval_loss",
        "outcomes told": "eval_accuracy",
        "pairs told": "eval_rewards/accuracies",
    }
    threshold = f"{'threshold':<22}{trainer.settings.threshold:.4g}"
    return [threshold, *last_figures(trainer, names)]
