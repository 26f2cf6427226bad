"""What the commands that train share: the options of the model, resuming, and the run itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl import ModelConfig

from genprm_trl.cli import console
from genprm_trl.errors import ConfigError, MissingExtraError
from genprm_trl.rows.outputs import CommandFiles, Input, inputs_of

logger = logging.getLogger(__name__)


@dataclass
class ModelOptions(ModelConfig):
    """TRL's options of the model; `--model` is short for `--model_name_or_path`."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Model directory or Hub id to start from.", "aliases": ["--model"], "reads": "model"},
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


# What saving a model and its card writes into a directory; weights are named by their size.
_SAVED = (
    "README.md", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", "special_tokens_map.json", "model.safetensors", "adapter_model.safetensors",
    "adapter_config.json", "training_args.bin", "genprm.json",
)  # fmt: skip


def training_files(args: Any, *options: Any, reads: Sequence[Input] = (), overwrite: bool) -> CommandFiles:
    """What a command that trains reads and writes.

    Args:
        args: The trainer's arguments.
        *options: Its other options.
        reads: What it reads besides what the options name.
        overwrite: Whether it may start anew in a directory that is not empty.
    """
    output = Path(args.output_dir)
    others = [output, *(output / name for name in _SAVED)]
    return CommandFiles([*inputs_of(args, *options), *reads], (), others, overwrite, "--output_dir")


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
