"""Train a GenPRM on solutions with rationales, with TRL.

DATA is a file (JSONL, JSON, parquet) or dataset of rationale records (`solution`, `rationales`, `labels`) or of ready
conversations (`messages`). With --mode direct, solutions with step labels are enough: ProcessBench, or
stepwise-supervision rows. With --protocol thinkprm, so are these and the published chains of ThinkPRM. The other
options are those of `trl sft`. To resume from the last checkpoint, run the same command again. A run with other data
or options is refused, but for a longer one. On several GPUs: accelerate launch -m genprm_trl sft DATA ...
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genprm_trl.cli import console
from genprm_trl.cli.training import (
    EvaluatedOptions,
    ModelOptions,
    checked_directory,
    checked_modules,
    described_data,
    last_figures,
    open_training,
)
from genprm_trl.errors import ConfigError, check_at_least
from genprm_trl.protocol.genprm import Mode
from genprm_trl.rows.digests import content_digest
from genprm_trl.sandbox.options import SandboxOptions
from genprm_trl.training.sft.trainer import GenPRMConfig

if TYPE_CHECKING:
    from genprm_trl.training.sft.trainer import GenPRMTrainer

logger = logging.getLogger(__name__)

_EVALUATION = ("eval_split", "verify_data", "verify_split", "verify_limit", "verify_max_step_tokens")


@dataclass(kw_only=True)
class SFTOptions(SandboxOptions, EvaluatedOptions):
    """The options of `genprm sft` that TRL does not have."""

    verify_data: str | None = field(
        default=None,
        metadata={
            "help": "Labelled solutions that the model judges at each evaluation as `genprm verify` does, writing "
            "rationales and running code.",
            "reads": "rows",
        },
    )
    verify_split: str | None = field(default=None, metadata={"help": "Split of the solutions to verify."})
    verify_limit: int = field(default=50, metadata={"help": "Verify only this many of them."})
    verify_max_step_tokens: int = field(
        default=2048, metadata={"help": "Maximum tokens of one step's rationale while verifying."}
    )


def run(options: SFTOptions, args: GenPRMConfig, model_options: ModelOptions) -> int:
    """Trains a GenPRM, and resumes from the last checkpoint if the same run has left one.

    All data are read before the model is loaded.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: Options are missing or contradict each other, or the checkpoints are those of another run.
        DataError: Another training runs in the output directory.
    """
    if args.eval_strategy != "no" and options.eval_data is None:
        raise ConfigError(f"--eval_strategy {args.eval_strategy.value} needs --eval_data")
    if args.eval_strategy == "no" and (options.eval_data or options.verify_data):
        raise ConfigError("evaluation needs --eval_strategy steps or epoch")
    check_at_least(1, verify_limit=options.verify_limit)
    with checked_directory(args, model_options):
        _train(options, args, model_options)
    return 0


def _train(options: SFTOptions, args: GenPRMConfig, model_options: ModelOptions) -> None:
    from genprm_trl.data.solutions import load_solutions
    from genprm_trl.training.sft.data import load_conversations
    from genprm_trl.training.sft.trainer import GenPRMTrainer

    # All data are read before the model is loaded: a bad row must not surface after minutes.
    reading: dict[str, Any] = {
        "mode": args.mode,
        "first_turn": args.first_turn,
        "protocol": args.protocol,
        "skip_bad_rows": args.skip_bad_rows,
    }
    train_data = load_conversations(options.data, split=options.split, **reading)
    eval_data = None
    if options.eval_data is not None:
        eval_data = load_conversations(options.eval_data, split=options.eval_split, **reading)
    solutions = None
    if options.verify_data is not None:
        solutions = load_solutions(
            options.verify_data,
            split=options.verify_split,
            limit=options.verify_limit,
            skip_bad_rows=args.skip_bad_rows,
            on_format=console.print_format,
        )

    evaluated = {}
    if args.load_best_model_at_end:  # then evaluation decides which weights are taken
        evaluated = {name: getattr(options, name) for name in _EVALUATION}
        evaluated["eval_rows"] = None if eval_data is None else content_digest(list(eval_data))
    training = open_training("sft", options, args, model_options, train_data, **evaluated)
    if training is None:
        return

    if solutions is not None:
        modes = [args.mode] if args.mode else train_data.unique("mode")
        if args.protocol == "genprm" and Mode.of(args.model_settings(modes).default_mode).execute:
            options.check_sandbox()
    with checked_modules():
        trainer = GenPRMTrainer(**training.arguments, args=args, train_dataset=train_data, eval_dataset=eval_data)
    trainer.described_data = described_data(options.data, training.settings)
    if solutions is not None:
        from genprm_trl.training.callbacks import VerificationCallback

        callback = VerificationCallback(
            trainer,
            solutions,
            max_step_tokens=options.verify_max_step_tokens,
            sandbox=options,
            name=Path(str(options.verify_data)).name,
        )
        trainer.add_callback(callback)
    training.train(trainer, _summary)


def _summary(trainer: GenPRMTrainer) -> list[str]:
    names = {
        "train loss": "loss",
        "eval loss": "eval_loss",
        "step accuracy": "eval_step_accuracy",
        "F1, rationales given": "eval_f1",
        "F1, verified": "eval_verified_f1",
    }
    return last_figures(trainer, names)
