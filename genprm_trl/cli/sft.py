"""Train a GenPRM on solutions with rationales, with TRL.

DATA is a file (JSONL, JSON, parquet) or data set of rationale records (`solution`, `rationales`, `labels`) or of ready
conversations (`messages`). With --mode direct, solutions with step labels are enough: ProcessBench, or
stepwise-supervision rows. The other options are those of `trl sft`. A run that was stopped goes on from its last
checkpoint when started again with the same words. On several GPUs: accelerate launch -m genprm_trl sft DATA ...
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl import ModelConfig

from genprm_trl.cli import console
from genprm_trl.errors import ConfigError, MissingExtraError
from genprm_trl.training.sft import GenPRMConfig

if TYPE_CHECKING:
    from genprm_trl.training.sft import GenPRMTrainer

logger = logging.getLogger(__name__)


@dataclass
class SFTOptions:
    """The options of `genprm sft` that TRL does not have."""

    data: str = field(metadata={"help": "What to train on: a file, or a data set.", "positional": True})
    split: str | None = field(default=None, metadata={"help": "Split of DATA, where it has several."})
    eval_data: str | None = field(
        default=None, metadata={"help": "Rows to evaluate on, of the same kinds. Needs --eval_strategy."}
    )
    eval_split: str | None = field(default=None, metadata={"help": "Split of the evaluation data."})
    verify_data: str | None = field(
        default=None,
        metadata={
            "help": "Labelled solutions that the model judges at each evaluation as `genprm verify` does, writing "
            "rationales and running code."
        },
    )
    verify_split: str | None = field(default=None, metadata={"help": "Split of the solutions to verify."})
    verify_limit: int = field(default=50, metadata={"help": "Verify the first so many of them."})
    verify_max_step_tokens: int = field(
        default=2048, metadata={"help": "Bound on the tokens of one step's rationale while verifying."}
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Start anew if the output holds checkpoints, instead of going on."}
    )


@dataclass
class ModelOptions(ModelConfig):
    """TRL's options of the model; `--model` is short for `--model_name_or_path`."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Model directory or Hub id to start from.", "aliases": ["--model"]}
    )


def run(options: SFTOptions, args: GenPRMConfig, model_options: ModelOptions) -> int:
    from genprm_trl.loading import load_solutions
    from genprm_trl.training.sft_data import load_conversations

    if not model_options.model_name_or_path:
        raise ConfigError("name the model to start from with --model")
    if args.eval_strategy != "no" and options.eval_data is None:
        raise ConfigError(f"--eval_strategy {args.eval_strategy.value} needs --eval_data")
    if args.eval_strategy == "no" and (options.eval_data or options.verify_data):
        raise ConfigError("evaluation needs --eval_strategy steps or epoch")
    if options.verify_limit < 1:
        raise ConfigError(f"--verify_limit must be at least 1, got {options.verify_limit}")
    checkpoint = _checkpoint(options, args)

    # All data are read before the model is loaded: a bad row must not surface after minutes.
    reading: dict[str, Any] = {
        "mode": args.mode,
        "first_turn": args.first_turn,
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
        )

    trainer = _make_trainer(args, model_options, train_data, eval_data)
    if solutions is not None:
        from genprm_trl.training.callbacks import VerificationCallback

        callback = VerificationCallback(trainer, solutions, max_step_tokens=options.verify_max_step_tokens)
        trainer.add_callback(callback)
    if args.save_strategy != "no":
        console.set_kept(f"checkpoints are in {args.output_dir}; the same command goes on from the last one")
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    if args.push_to_hub:
        trainer.push_to_hub()
    if trainer.is_world_process_zero():
        print("\n".join(_summary(trainer)))
    trainer.end()
    return 0


def _checkpoint(options: SFTOptions, args: GenPRMConfig) -> str | None:
    """The checkpoint to go on from: the one that is named, or the last one in the output directory."""
    from transformers.trainer_utils import get_last_checkpoint

    if args.resume_from_checkpoint is not None:
        if not Path(args.resume_from_checkpoint).is_dir():
            raise ConfigError(f"--resume_from_checkpoint {args.resume_from_checkpoint} is not a directory")
        return args.resume_from_checkpoint
    output = Path(args.output_dir)
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output_dir {output} is not a directory")
    last = get_last_checkpoint(str(output)) if output.is_dir() else None
    if last is None or options.overwrite:
        return None
    logger.info("going on from %s", last)
    return last


def _make_trainer(args: GenPRMConfig, model_options: ModelOptions, train_data: Any, eval_data: Any) -> GenPRMTrainer:
    from trl import get_peft_config, get_quantization_config

    from genprm_trl.training.sft import GenPRMTrainer

    given = args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}
    args.model_init_kwargs = {
        "revision": model_options.model_revision,
        "attn_implementation": model_options.attn_implementation,
        "dtype": model_options.dtype,
        **given,
    }
    if model_options.use_peft:
        try:
            import peft  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("peft", "peft", "training an adapter (--use_peft)") from error
    return GenPRMTrainer(
        model=model_options.model_name_or_path,
        args=args,
        train_dataset=train_data,
        eval_dataset=eval_data,
        quantization_config=get_quantization_config(model_options),
        peft_config=get_peft_config(model_options),
    )


def _summary(trainer: GenPRMTrainer) -> list[str]:
    history = trainer.state.log_history
    shown = {
        "train loss": next((e["loss"] for e in reversed(history) if "loss" in e), None),
        "eval loss": _last(history, "eval_loss"),
        "step accuracy": _last(history, "eval_step_accuracy"),
        "F1, rationales given": _last(history, "eval_f1"),
        "F1, verified": _last(history, "eval_verified_f1"),
    }
    lines = [f"{name:<22}{value:.4g}" for name, value in shown.items() if value is not None]
    return [*lines, f"{'model':<22}{trainer.args.output_dir}"]


def _last(history: list[dict[str, float]], name: str) -> float | None:
    return next((entry[name] for entry in reversed(history) if name in entry), None)
