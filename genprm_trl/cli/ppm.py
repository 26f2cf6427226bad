"""Train a process preference model on pairs of steps of labelled solutions, with TRL (rStar-Math).

DATA is a file or dataset of solutions with step labels, several of each problem, in any format that `genprm verify`
reads. Where solutions of a problem begin alike, the steps that they go on with are compared: by the Monte Carlo
estimates (mc) that `genprm label` writes, or by the labels. Whole solutions are compared by their outcomes. The other
options are those of TRL's RewardTrainer. To resume from the last checkpoint, run the same command again. A run with
other data or options is refused, but for a longer one. On several GPUs: accelerate launch -m genprm_trl ppm DATA ...
"""

from __future__ import annotations

from dataclasses import dataclass, field

from genprm_trl.cli.scorers import ThresholdOptions, train_scorer
from genprm_trl.cli.training import ModelOptions, checked_directory
from genprm_trl.errors import check_at_least
from genprm_trl.training.ppm.trainer import PPMConfig

_FIGURES = {"train loss": "loss", "eval loss": "eval_loss", "pairs told": "eval_accuracy"}


@dataclass(kw_only=True)
class PPMOptions(ThresholdOptions):
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
    from genprm_trl.training.ppm.pairs import load_pairs
    from genprm_trl.training.ppm.trainer import PPMTrainer

    options.check(args, model_options, new_head=True)
    check_at_least(0, pair_margin=options.pair_margin)
    with checked_directory(args, model_options):
        train_scorer(
            "ppm", options, args, model_options, load=load_pairs, trainer_class=PPMTrainer, figures=_FIGURES,
            margin=options.pair_margin,
        )  # fmt: skip
    return 0
