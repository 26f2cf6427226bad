"""Loading a model to train as a step classifier."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForTokenClassification, PreTrainedModel

from genprm_trl.errors import ConfigError


def load_new_classifier(path: str, init_kwargs: Any = None) -> PreTrainedModel:
    """A model to train as a step classifier: any checkpoint, with a new classification head unless it has one.

    Args:
        path: Directory or name of a checkpoint, of a causal model or of a token classifier.
        init_kwargs: Arguments of `from_pretrained`. The dtype is float32 unless it is among them.

    Raises:
        ConfigError: No such checkpoint, or one that has no token classification form.
    """
    names = {0: "incorrect", 1: "correct"}
    # transformers would keep the checkpoint's dtype, often bfloat16.
    init_kwargs = {"dtype": torch.float32, **(init_kwargs or {})}
    try:
        return AutoModelForTokenClassification.from_pretrained(
            path, id2label=names, label2id={name: i for i, name in names.items()}, **init_kwargs
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"No token classification model could be loaded from '{path}': {error}") from error
