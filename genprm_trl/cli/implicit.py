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

from genprm_trl.cli.scorers import ThresholdOptions, train_scorer
from genprm_trl.cli.training import ModelOptions, checked_directory
from genprm_trl.training.implicit_prm.offline import ImplicitPRMConfig

_FIGURES = {
    "train loss": "loss",
    "eval loss": "eval_loss",
    "outcomes told": "eval_accuracy",
    "pairs told": "eval_rewards/accuracies",
}


@dataclass(kw_only=True)
class ImplicitOptions(ThresholdOptions):
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
    from genprm_trl.generation.loading import check_name
    from genprm_trl.training.implicit_prm.offline import NAMED, ImplicitPairTrainer, ImplicitPRMTrainer
    from genprm_trl.training.outcomes import load_outcomes

    options.check(args, model_options, new_head=False)
    trainer_class = ImplicitPairTrainer if args.loss_type in ImplicitPairTrainer.losses else ImplicitPRMTrainer
    with checked_directory(args, model_options):
        given = {"revision": model_options.model_revision, **(args.model_init_kwargs or {})}
        check_name(str(model_options.model_name_or_path), given, NAMED)  # before the data are read
        train_scorer(
            "implicit", options, args, model_options, load=load_outcomes, trainer_class=trainer_class, figures=_FIGURES
        )
    return 0
