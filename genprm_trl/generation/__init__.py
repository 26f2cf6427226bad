"""Text from a model: the `Generator` interface and its providers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl.generation.base import FinishReason, GenerationResult, Generator, SamplingParams
from genprm_trl.lazy import lazy_exports

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

__getattr__, __dir__ = lazy_exports(__name__, _PROVIDERS)
