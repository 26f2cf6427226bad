"""The limit of the engine alone: one plain generate call in which all prompts are known at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from genprm_trl.generation.base import SamplingParams


async def plain_generate(generator: Any, prompts: Sequence[list[int]], tokens: int, sampling: SamplingParams) -> float:
    """Seconds that the engine of a generator takes for `tokens` tokens after each prompt, nothing cached before.

    Args:
        generator: A `TransformersGenerator` or `VLLMGenerator`, idle meanwhile.
        prompts: Token ids.
        tokens: For each of them; end-of-text does not end it.
        sampling: Temperature and filters. No stop strings, no log-probabilities.
    """
    if is_vllm(generator):
        return await replay(generator, [(prompt, tokens) for prompt in prompts], sampling)
    started = time.perf_counter()
    await _transformers(generator, prompts, tokens, sampling)
    return time.perf_counter() - started


def is_vllm(generator: Any) -> bool:
    return type(generator).__name__ == "VLLMGenerator"


async def forget_prefixes(generator: Any) -> None:
    """Empties the prefix cache of vLLM, where an earlier run has left every answer of the next one."""
    if is_vllm(generator):
        await generator._loop.call(generator._engine.reset_prefix_cache())


async def _transformers(generator: Any, prompts: Sequence[list[int]], tokens: int, sampling: SamplingParams) -> None:
    import torch
    from transformers import GenerationConfig

    from genprm_trl.generation.hf.generator import attention_without_plans

    model = generator.model
    config = GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        pad_token_id=0,
        eos_token_id=generator.tokenizer.eos_token_id,
    )

    def run() -> None:
        for start in range(0, len(prompts), generator.max_concurrent):
            batch = prompts[start : start + generator.max_concurrent]
            width = max(map(len, batch))
            ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in batch])
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
            # As ours runs: attention kernels must not make the difference.
            with torch.inference_mode(), attention_without_plans(model.device):
                output = model.generate(
                    ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
                )
            assert output.shape == (len(batch), width + tokens)

    await asyncio.to_thread(run)


async def replay(generator: Any, requests: Sequence[tuple[list[int], int]], sampling: SamplingParams) -> float:
    """Seconds that vLLM takes for requests that are all known at once.

    Args:
        generator: A `VLLMGenerator`, idle meanwhile.
        requests: The token ids of each prompt, and how many tokens to generate after it.
        sampling: As for `plain_generate`.
    """
    import vllm
    from vllm.sampling_params import RequestOutputKind

    async def one(number: int, prompt: list[int], tokens: int) -> None:
        params = vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=tokens,
            ignore_eos=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        inputs = {"type": "token", "prompt_token_ids": prompt}
        async for output in generator._engine.generate(inputs, params, f"plain-{time.monotonic_ns()}-{number}"):
            assert len(output.outputs[0].token_ids) == tokens

    async def run() -> None:
        await asyncio.gather(*(one(number, *request) for number, request in enumerate(requests)))

    await forget_prefixes(generator)
    started = time.perf_counter()
    # The engine belongs to the loop of the generator's thread.
    await generator._loop.call(run())
    return time.perf_counter() - started
