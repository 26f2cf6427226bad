"""Text from a model: the `Generator` interface and its providers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from genprm_trl.generation.base import FinishReason, GenerationResult, Generator, SamplingParams

if TYPE_CHECKING:
    from genprm_trl.generation.server_generator import ServerGenerator
    from genprm_trl.generation.transformers_generator import TransformersGenerator
    from genprm_trl.generation.vllm_generator import VLLMGenerator

# Providers are imported when they are first named: the interface alone needs neither torch nor transformers.
_PROVIDERS = {
    "ServerGenerator": ".server_generator",
    "TransformersGenerator": ".transformers_generator",
    "VLLMGenerator": ".vllm_generator",
}

__all__ = [
    "FinishReason",
    "GenerationResult",
    "Generator",
    "SamplingParams",
    "ServerGenerator",
    "TransformersGenerator",
    "VLLMGenerator",
]


def __getattr__(name: str) -> Any:
    if name in _PROVIDERS:
        return getattr(import_module(_PROVIDERS[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
