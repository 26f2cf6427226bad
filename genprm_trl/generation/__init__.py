"""Text from a model: the `Generator` interface and its providers, which are imported when they are first named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.generation.base import FinishReason as FinishReason
    from genprm_trl.generation.base import GenerationResult as GenerationResult
    from genprm_trl.generation.base import Generator as Generator
    from genprm_trl.generation.base import SamplingParams as SamplingParams
    from genprm_trl.generation.hf.generator import TransformersGenerator as TransformersGenerator
    from genprm_trl.generation.server.generator import ServerGenerator as ServerGenerator
    from genprm_trl.generation.vllm_generator import VLLMGenerator as VLLMGenerator

__all__, __getattr__, __dir__ = lazy_exports(
    __name__,
    {
        ".base": ["FinishReason", "GenerationResult", "Generator", "SamplingParams"],
        ".hf.generator": ["TransformersGenerator"],
        ".server.generator": ["ServerGenerator"],
        ".vllm_generator": ["VLLMGenerator"],
    },
)
