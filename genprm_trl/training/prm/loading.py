"""Loading a step classifier and its tokenizer, to train or to score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from genprm_trl.errors import ConfigError, MissingExtraError
from genprm_trl.generation.loading import default_device, load_tokenizer, loaded_whole
from genprm_trl.training.prm.tokens import DEFAULT_STEP_SEPARATOR


def load_step_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to a model.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    if not path:
        raise ConfigError("The model does not say where its tokenizer is; pass the tokenizer too")
    return load_tokenizer(path)


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


def load_trained_classifier(path: str) -> PreTrainedModel:
    """A trained step classifier, in its own precision, on the first accelerator or else the CPU.

    Args:
        path: Directory of a model or of a PEFT adapter, or name of a model on the hub.

    Raises:
        ConfigError: There is no model, or its classification head was never trained.
        MissingExtraError: It is an adapter and peft is not installed.
    """
    try:
        if (Path(path) / "adapter_config.json").is_file():
            model = _load_adapter(path)
        else:
            with loaded_whole():
                model, info = AutoModelForTokenClassification.from_pretrained(path, output_loading_info=True)
            if info["missing_keys"]:
                # transformers draws them at random: a causal model would give scores that mean nothing.
                missing = ", ".join(sorted(info["missing_keys"]))
                raise ConfigError(f"'{path}' is no trained process reward model: it has no weights for {missing}")
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"No process reward model could be loaded from '{path}': {error}") from error
    return model.to(default_device())


def _load_adapter(path: str) -> PreTrainedModel:
    try:
        from peft import AutoPeftModelForTokenClassification
    except ImportError as error:
        raise MissingExtraError("peft", "peft", "Loading an adapter") from error
    with loaded_whole():
        model = AutoPeftModelForTokenClassification.from_pretrained(path)
    # `PRMTrainer` saves the configuration beside the adapter; the base model's does not know the separator.
    if (Path(path) / "config.json").is_file():
        saved = type(model.config).from_pretrained(path)
        model.config.step_separator = getattr(saved, "step_separator", DEFAULT_STEP_SEPARATOR)
    return model
