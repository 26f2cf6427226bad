"""Loading a model to train as a step classifier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from transformers import AutoModelForTokenClassification, PreTrainedModel

from genprm_trl.errors import ConfigError
from genprm_trl.generation.loading import unloadable
from genprm_trl.verifier.kinds.token_classifier import prepare_head


def load_new_classifier(path: str, init_kwargs: Any = None) -> PreTrainedModel:
    """A model to train as a step classifier: any checkpoint, with a new classification head unless it has one.

    Args:
        path: Directory or name of a checkpoint, of a causal model or of a token classifier.
        init_kwargs: Arguments of `from_pretrained`. The dtype is float32 unless it is among them.

    Raises:
        ConfigError: No such checkpoint, one of an architecture that cannot classify tokens, or one without all of the
            weights below the head.
    """
    names = {0: "incorrect", 1: "correct"}
    # transformers would keep the checkpoint's dtype, often bfloat16.
    init_kwargs = {"dtype": torch.float32, **(init_kwargs or {})}
    prepare_head(path, init_kwargs.get("revision"))
    try:
        model, info = AutoModelForTokenClassification.from_pretrained(
            path,
            id2label=names,
            label2id={name: i for i, name in names.items()},
            output_loading_info=True,
            **init_kwargs,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise unloadable(error, path, "token classifier of two labels") from error
    if missing := sorted(key for key in info["missing_keys"] if key.startswith(f"{model.base_model_prefix}.")):
        # transformers draws them at random.
        raise ConfigError(f"the checkpoint {path} is incomplete: it has no weights for {', '.join(missing[:3])}")
    _give_memory(model, info["missing_keys"])
    return model


def _give_memory(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Gives new weights memory of their own where transformers leaves them without.

    Beside the first process of FSDP it does, since their values come from there. But accelerate knows the weights of
    an optimizer by their addresses while it shards a model: without memory all have the same one, and of the head one
    weight would be trained in the place of the others.
    """
    for name in names:
        module, _, own = name.rpartition(".")
        weight = model.get_parameter_or_buffer(name)
        if weight.is_meta:
            memory = torch.zeros_like(weight, device="cpu")
            setattr(model.get_submodule(module), own, torch.nn.Parameter(memory, requires_grad=weight.requires_grad))
