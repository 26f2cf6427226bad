"""What the commands that train share: the options of the model, resuming, and the run itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl import ModelConfig

from genprm_trl.cli import console
from genprm_trl.errors import ConfigError, MissingExtraError

logger = logging.getLogger(__name__)


@dataclass
class ModelOptions(ModelConfig):
    """TRL's options of the model; `--model` is short for `--model_name_or_path`."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Model directory or Hub id to start from.", "aliases": ["--model"]}
    )


def model_arguments(args: Any, options: ModelOptions) -> dict[str, Any]:
    """The arguments for a trainer of TRL that the model's options stand for; some go into `args`.

    Raises:
        ConfigError: No model is named.
        MissingExtraError: An adapter is asked for, and peft is not installed.
    """
    from trl import get_peft_config, get_quantization_config

    if not options.model_name_or_path:
        raise ConfigError("name the model to start from with --model")
    if options.use_peft:
        try:
            import peft  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("peft", "peft", "training an adapter (--use_peft)") from error
    given = args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}
    args.model_init_kwargs = {
        "revision": options.model_revision,
        "attn_implementation": options.attn_implementation,
        "dtype": options.dtype,
        **given,
    }
    return {
        "model": options.model_name_or_path,
        "quantization_config": get_quantization_config(options),
        "peft_config": get_peft_config(options),
    }


def last_checkpoint(args: Any) -> str | None:
    """The last checkpoint in the output directory, after a check of the directories that are named.

    Raises:
        ConfigError: One of them is not a directory.
    """
    from transformers.trainer_utils import get_last_checkpoint

    if args.resume_from_checkpoint is not None and not Path(args.resume_from_checkpoint).is_dir():
        raise ConfigError(f"--resume_from_checkpoint {args.resume_from_checkpoint} is not a directory")
    output = Path(args.output_dir)
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output_dir {output} is not a directory")
    return get_last_checkpoint(str(output)) if output.is_dir() else None


def train(trainer: Any, args: Any, checkpoint: str | None, summary: Callable[[Any], list[str]]) -> None:
    """Trains, saves the model, uploads it if that is asked for, and prints a summary.

    Args:
        trainer: A trainer of TRL.
        args: Its arguments.
        checkpoint: The checkpoint to resume from.
        summary: The lines to print at the end.
    """
    if checkpoint is not None:
        logger.info("resuming from %s", checkpoint)
    if args.save_strategy != "no":
        console.set_kept(f"checkpoints are in {args.output_dir}; to resume, run the same command again")
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    if args.push_to_hub:
        trainer.push_to_hub()
    if trainer.is_world_process_zero():
        print("\n".join(summary(trainer)))
    trainer.end()
