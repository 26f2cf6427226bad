"""Train a policy on pairs of steps, with TRL's DPO (Step-DPO). It becomes better at solving, and judges nothing.

DATA is a file or dataset of pairs: what `genprm pairs` wrote, or rows with the columns of `xinlai/Math-Step-DPO-10K`.
Each pair is a right and a wrong next step after the same prefix of a solution. --loss_type chooses one of TRL's
losses: sigmoid is the paper's, nca_pair keeps the likelihood of right steps from falling. The other options are those
of TRL's DPOTrainer. To resume from the last checkpoint, run the same command again. A run with other data or options
is refused, but for a longer one. On several GPUs: accelerate launch -m genprm_trl dpo DATA ...
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from genprm_trl.cli.training import (
    EvaluatedOptions,
    ModelOptions,
    checked_directory,
    checked_modules,
    described_data,
    last_figures,
    open_training,
)
from genprm_trl.training.step_dpo.trainer import StepDPOConfig


@dataclass(kw_only=True)
class StepDPOOptions(EvaluatedOptions):
    """The options of `genprm dpo` that TRL does not have."""

    data: str = field(
        metadata={"help": "Pairs of steps: a file or a dataset.", "positional": True, "reads": "rows"},
    )
    skip_bad_rows: bool = field(
        default=False, metadata={"help": "Report unusable rows and skip them, instead of refusing to start."}
    )


def run(options: StepDPOOptions, args: StepDPOConfig, model_options: ModelOptions) -> int:
    """Trains a policy on pairs of steps, and resumes from the last checkpoint if the same run has left one.

    All data are read before the model is loaded.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: Options are missing or contradict each other, or the checkpoints are those of another run.
        DataError: A row is bad, or another training runs in the output directory.
    """
    options.check_evaluation(args)
    with checked_directory(args, model_options):
        _train(options, args, model_options)
    return 0


def _train(options: StepDPOOptions, args: StepDPOConfig, model_options: ModelOptions) -> None:
    from genprm_trl.data.step_pairs import load_step_pairs
    from genprm_trl.training.step_dpo.trainer import StepDPOTrainer, as_rows

    def read(data: str, split: str | None) -> Any:
        return as_rows(load_step_pairs(data, split=split, skip_bad_rows=options.skip_bad_rows), data)

    rows = read(options.data, options.split)
    eval_rows = None if options.eval_data is None else read(options.eval_data, options.eval_split)
    decisive = options.what_evaluation_decides(args, eval_rows)
    training = open_training("dpo", options, args, model_options, rows, **decisive)
    if training is None:
        return
    with checked_modules():
        trainer = StepDPOTrainer(**training.arguments, args=args, train_dataset=rows, eval_dataset=eval_rows)
    trainer.described_data = described_data(options.data, training.settings)
    training.train(trainer, _summary)


def _summary(trainer: Any) -> list[str]:
    names = {
        "train loss": "loss",
        "eval loss": "eval_loss",
        "pairs told": "rewards/accuracies",
        "pairs told, held-out": "eval_rewards/accuracies",
    }
    return last_figures(trainer, names)
