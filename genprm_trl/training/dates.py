"""The day that a dated chat template shows in a training, which must be that of what it goes on from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, is_peft_model
from transformers.trainer_utils import get_last_checkpoint

from genprm_trl.conversation.settings import frozen_date


def dated_by(model: Any, tokenizer: Any, args: Any) -> list[str]:
    """Whose settings name the day: a checkpoint to resume from, and the model.

    Of an adapter the model only names its base. The tokenizer names the directory that both were loaded from.

    Args:
        model: The model to train, or where it is.
        tokenizer: The tokenizer, or None.
        args: The trainer's options.

    Returns:
        Directories or Hub ids, the most important one first.
    """
    is_named = isinstance(model, str | Path)
    own = [str(model) if is_named else model.config.name_or_path]
    tokenizer_dir = getattr(tokenizer, "name_or_path", None)
    own = [*own, tokenizer_dir] if is_named or not is_peft_model(model) else [tokenizer_dir, *own]
    found = [args.resume_from_checkpoint, *own]
    if Path(args.output_dir).is_dir():
        found.append(get_last_checkpoint(args.output_dir))
    return [str(each) for each in dict.fromkeys(filter(None, found))]


def training_date(tokenizer: Any, models: Iterable[str]) -> str | None:
    """The day that the chat template shows: that of what the training goes on from, or today. None if it shows none.

    Args:
        tokenizer: The tokenizer.
        models: What `dated_by` returned.
    """
    # Processes of a training that starts around midnight must agree.
    [day] = broadcast_object_list([frozen_date(str(tokenizer.chat_template), *models)])
    found: str | None = day
    return found
