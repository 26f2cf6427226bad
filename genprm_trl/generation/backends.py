"""Opening a generator by the name of its backend."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

from genprm_trl.errors import ConfigError, MissingExtraError
from genprm_trl.generation.base import Generator

Backend = Literal["transformers", "vllm", "server"]

# Imported when they are opened: none of them is cheap to import, and a backend's packages may not be installed.
_PROVIDERS = {
    "transformers": ("genprm_trl.generation.hf.generator", "TransformersGenerator"),
    "vllm": ("genprm_trl.generation.vllm_generator", "VLLMGenerator"),
    "server": ("genprm_trl.generation.server.generator", "ServerGenerator"),
}

# Options that change where text is made and how fast, and not what it says.
OPERATIONAL_OPTIONS = frozenset(
    {
        # transformers
        "device",
        "max_batch_size",
        # server
        "urls",
        "served_model_name",
        "api_key_variable",
        "timeout",
        "attempts",
        "patience",
        "abilities",
        # vllm
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "data_parallel_size",
        "data_parallel_size_local",
        "distributed_executor_backend",
        "gpu_memory_utilization",
        "max_num_seqs",
        "max_num_batched_tokens",
        "enforce_eager",
        "swap_space",
        "download_dir",
        "disable_log_stats",
    }
)


def open_generator(
    model: str | Path | Any, tokenizer: Any = None, *, backend: Backend | str = "transformers", **options: Any
) -> Generator:
    """The generator of a backend, ready to generate; its caller closes it.

    Args:
        model: A directory, a name on the Hub, or for `transformers` a loaded model.
        tokenizer: The tokenizer, or where to load it from; by default from `model`.
        backend: `transformers` runs the model in this process, `vllm` runs vLLM's engine from it, `server` asks
            servers that run elsewhere. `module:Class` is any other class with the interface of `Generator`, made with
            model, tokenizer and options.
        options: Passed to the backend's generator: `TransformersGenerator`, `VLLMGenerator`, `ServerGenerator`.

    Raises:
        ConfigError: There is no such backend, it has no such option, or it cannot use the model.
        MissingExtraError: The backend's package is not installed.
    """
    generator: Generator = find_backend(backend, options)(model, tokenizer, **options)
    return generator


def find_backend(backend: Backend | str, options: Mapping[str, Any]) -> Callable[..., Generator]:
    """The class of a backend, whose options are checked; nothing is loaded.

    Args:
        backend: The backend, as for `open_generator`.
        options: Options of its generator.

    Raises:
        ConfigError: There is no such backend, or it has no such option, or lacks one.
        MissingExtraError: The backend's package is not installed.
    """
    if backend == "vllm" and importlib.util.find_spec("vllm") is None:
        raise MissingExtraError("vllm", "vllm", "the backend vllm")
    if backend in _PROVIDERS:
        module, name = _PROVIDERS[backend]
        provider = getattr(import_module(module), name)
    elif ":" in backend:
        provider, name = load_class(backend, "backend"), backend
    else:
        raise ConfigError(f"unknown backend {backend!r}; choose {', '.join(get_args(Backend))}, or give module:Class")
    known = inspect.signature(provider).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    for option in options:
        if option not in known and not takes_any:
            raise ConfigError(
                f"the backend {backend} has no option '{option}'; it has {', '.join(list(known)[2:])} ({name})"
            )
    for needed, parameter in known.items():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty and needed not in options:
            raise ConfigError(f"the backend {backend} needs the option '{needed}'")
    found: Callable[..., Generator] = provider
    return found


def load_class(path: str, what: str) -> Any:
    """The class that `module:Class` names.

    Args:
        path: The name.
        what: What errors call it.

    Raises:
        ConfigError: It cannot be imported, or is no class.
    """
    module, _, name = path.partition(":")
    try:
        provider = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"the {what} {path} cannot be imported: {error}") from error
    if not inspect.isclass(provider):
        raise ConfigError(f"the {what} {path} is no class")
    return provider


def local_directory(name_or_path: str | Path) -> Path | None:
    """The model's directory, or None for what can only be a model id of the Hub (`name` or `owner/name`).

    Raises:
        ConfigError: There is no such directory.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise ConfigError(f"{path} is a file; name the model's directory")
    name = str(name_or_path)
    if isinstance(name_or_path, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise ConfigError(f"model directory {path} does not exist")
    return None
