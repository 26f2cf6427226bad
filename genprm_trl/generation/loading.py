"""Loading a causal language model and its tokenizer, with errors that say what to do."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.integrations import deepspeed
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from genprm_trl.errors import ConfigError
from genprm_trl.generation.backends import local_directory

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")


def load_tokenizer(name_or_path: str | Path, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory or a model id of the Hugging Face Hub.

    Args:
        name_or_path: Directory or model id.
        revision: The model's revision on the Hub.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    directory = local_directory(name_or_path)
    if directory is not None and not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise ConfigError(
            f"{directory} holds no tokenizer (none of {', '.join(TOKENIZER_FILES)}). Save the one the model "
            f"was trained with there (tokenizer.save_pretrained), or name another directory as the tokenizer."
        )
    source = directory or name_or_path
    try:
        # A tokenizer that names no class is all in its tokenizer.json. For some model types (Qwen2 is one)
        # AutoTokenizer loads even such a one as the type's usual class, which splits text by other rules.
        declared = get_tokenizer_config(source, revision=revision).get("tokenizer_class")
        generic = declared in ("PreTrainedTokenizerFast", "TokenizersBackend")
        if generic:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(source, revision=revision or "main")
        else:  # without an answer to it, transformers asks at the terminal whether a model's code may run
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
    except Exception as error:
        raise ConfigError(f"cannot load a tokenizer from {name_or_path}: {_brief(error)}") from error
    # Where only tokenizer_config.json is left, a tokenizer of nothing but special tokens is loaded without complaint.
    if not tokenizer.encode("a", add_special_tokens=False):
        raise ConfigError(f"the tokenizer in {name_or_path} has no vocabulary: is its tokenizer.json missing?")
    return tokenizer


def load_config(
    name_or_path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """The configuration of a model, without its weights.

    Args:
        name_or_path: Directory or model id.
        revision: The model's revision on the Hub.
        trust_remote_code: Whether code that comes with the model may be run.

    Raises:
        ConfigError: The path does not exist, or holds no model.
    """
    directory = local_directory(name_or_path)
    try:
        return AutoConfig.from_pretrained(
            directory or name_or_path, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise _brings_code(name_or_path) from error
        raise ConfigError(f"no model could be loaded from '{name_or_path}': {_brief(error)}") from error


# What says which of a model's files are read.
_OTHER_FILES = ("revision", "subfolder", "variant", "gguf_file")


def check_name(model: str | Path, init_kwargs: Mapping[str, Any], why: str) -> None:
    """Checks that the name of a model stands for the files that are loaded, where it is loaded by the name again.

    Args:
        model: A directory, or a name on the Hub.
        init_kwargs: Arguments of `from_pretrained`.
        why: Who loads it by the name, as errors say it.

    Raises:
        ConfigError: They name other files than the name alone does.
    """
    others = [name for name in _OTHER_FILES if init_kwargs.get(name) is not None]
    if init_kwargs.get("revision") == "main" or Path(model).is_dir():
        others = [name for name in others if name != "revision"]
    if others:
        raise ConfigError(
            f"{why} by its name alone, without a {' and '.join(others)}: download those files into a directory of "
            "their own, and give it with --model"
        )


def load_model(
    name_or_path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """The causal language model of a directory or a model id of the Hugging Face Hub, in eval mode.

    Args:
        name_or_path: Directory or model id.
        dtype: Precision, as in `from_pretrained`; "auto" is the checkpoint's own.
        device: Device for the model. None is the first accelerator, else the CPU. With a `device_map` in
            `model_kwargs` it must be None.
        model_kwargs: Passed to `from_pretrained`.

    Raises:
        ConfigError: The path does not exist, is not a model that generates text left to right, lacks weights, or
            cannot be read.
    """
    kwargs = dict(model_kwargs or {})
    directory = local_directory(name_or_path)
    if directory is not None and not any(
        (directory / name).is_file() for name in ("config.json", "adapter_config.json")
    ):
        raise ConfigError(
            f"{directory} is not a model directory: it has no config.json. Name the directory that save_pretrained "
            f"wrote (a trainer's checkpoint-N directory or its final output)."
        )
    if "device_map" in kwargs and device is not None:
        raise ConfigError("give either a device or model_kwargs['device_map'], not both")
    kwargs.setdefault("dtype", dtype)
    kwargs.setdefault("trust_remote_code", False)
    named = kwargs["dtype"]
    if isinstance(named, str) and named != "auto" and not isinstance(getattr(torch, named, None), torch.dtype):
        raise ConfigError(f"unknown dtype {named!r}; give auto, or a type of torch such as bfloat16")
    check_device(device)
    try:
        with loaded_whole():
            model, info = AutoModelForCausalLM.from_pretrained(
                directory or name_or_path, **kwargs, output_loading_info=True
            )
        _check_complete(model, info, name_or_path)
        if "device_map" not in kwargs:
            model = model.to(device or default_device())
    except ConfigError:
        raise
    except Exception as error:
        raise unloadable(error, name_or_path, "causal language model") from error
    return model.eval()


def unloadable(error: Exception, name_or_path: str | Path, what: str) -> ConfigError:
    """The error for a model that transformers does not load, on one line.

    Args:
        error: What transformers said.
        name_or_path: The model.
        what: What it was to be loaded as.
    """
    if "trust_remote_code" in str(error):
        return _brings_code(name_or_path)
    if "ignore_mismatched_sizes" in str(error):
        return ConfigError(
            f"'{name_or_path}' is no {what}: some of its weights have other shapes than such a model (see the table "
            "above); give one that its config.json fits"
        )
    return ConfigError(f"cannot load a {what} from {name_or_path}: {_brief(error)}")


def check_shapes(info: Mapping[str, Any], what: str, instead: str) -> None:
    """Checks that all weights that transformers has loaded had the shapes of the model.

    Args:
        info: What `from_pretrained` tells with `output_loading_info`.
        what: What errors say first.
        instead: What they say to do.

    Raises:
        ConfigError: A weight has another shape, as that of a head with another number of labels.
    """
    for weight, found, expected in sorted(info["mismatched_keys"]):
        raise ConfigError(
            f"{what}: its weight {weight} has the shape {tuple(found)} instead of {tuple(expected)}; {instead}"
        )


@contextlib.contextmanager
def loaded_whole() -> Iterator[None]:
    """Lets transformers load whole models beside a training that shards its own.

    From the time the arguments of a training with ZeRO-3 are there, transformers shards whatever is loaded over the
    processes, which is of use only to models that DeepSpeed trains.
    """
    training = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = training


def check_whole(model: torch.nn.Module) -> None:
    """Checks that a model that was handed over has its weights in this process.

    Raises:
        ConfigError: It is sharded over processes, which would wait for one another at each of its layers.
    """
    for name, parameter in model.named_parameters():
        if isinstance(parameter, DTensor) or (hasattr(parameter, "ds_id") and not parameter.numel()):
            raise ConfigError(
                f"the model is sharded over processes (its weight {name} is not whole here), and is needed whole: "
                "give its name or directory, or load it before the training's arguments are made"
            )


_CLASSIFIER = re.compile(r"\w*For(TokenClassification|SequenceClassification|\w*RewardModel)")
_CLASSIFIER_HEAD = re.compile(r"(score|classifier)\.")


def classifier_class(architectures: Iterable[str] | None) -> str | None:
    """The first of the architectures in a configuration that is a classifier; None if there is none."""
    return next((name for name in architectures or () if _CLASSIFIER.fullmatch(name)), None)


def _check_complete(model: PreTrainedModel, info: Mapping[str, Any], name: str | Path) -> None:
    """Raises `ConfigError` for what transformers loads with a mere note: a classifier, or weights that are not there.

    Tied weights, which a checkpoint stores once, are not among `info["missing_keys"]`. With tied embeddings a
    classifier is complete as a causal model, so it is told by its own name and head. Of an adapter, the adapter's own
    weights are checked; transformers does not report the base model's.
    """
    classifier = classifier_class(model.config.architectures)
    adapters = getattr(model, "peft_config", {}).values()
    classifier = classifier or next((f"{a.task_type} adapter" for a in adapters if _classifies(a.task_type)), None)
    head = sorted(key for key in info["unexpected_keys"] if _CLASSIFIER_HEAD.match(key))
    if classifier or head:
        what = classifier or f"it has {head[0]}"
        raise ConfigError(
            f"{name} is a classifier ({what}), which generates no text; a discriminative process reward model "
            "is opened by its own kind (open_verifier, --kind)"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        # transformers draws them at random: the model would write nonsense.
        rest = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ConfigError(
            f"the checkpoint {name} is incomplete as a causal language model: it has no weights for "
            f"{', '.join(missing[:3])}{rest}"
        )


def _classifies(task_type: Any) -> bool:
    return str(getattr(task_type, "value", task_type)) in ("TOKEN_CLS", "SEQ_CLS")


def check_device(device: str | torch.device | None) -> None:
    """Checks that torch knows a device, and has it.

    Raises:
        ConfigError: It does not.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without the kind
        raise ConfigError(f"the device {device} cannot be used: {_brief(error)}") from error


def default_device() -> torch.device:
    """The first accelerator that torch can use, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def context_length(model: Any, tokenizer: Any) -> int:
    """Tokens that the model's context holds.

    Raises:
        ConfigError: Neither the model's config nor the tokenizer says.
    """
    length = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if length is None and tokenizer.model_max_length < 10**9:  # transformers' own "unknown" is about 1e30
        length = tokenizer.model_max_length
    if not length:
        raise ConfigError("the model does not say how long its context is: give max_context")
    return int(length)


def _brings_code(name_or_path: str | Path) -> ConfigError:
    return ConfigError(
        f"'{name_or_path}' brings code of its own, which is not run here: give a checkpoint of an architecture that "
        "transformers has"
    )


def _brief(error: Exception) -> str:
    """The error on one line; loaders' messages run over many."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
