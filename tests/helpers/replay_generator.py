"""A generator that writes what a training conversation holds: for tests of whether training and inference agree."""

from __future__ import annotations

from typing import Any

from genprm_trl.generation.base import GenerationResult, Generator, SamplingParams


class ReplayGenerator(Generator):
    """Writes what the training conversation holds next, up to the stop string, and keeps the prompts it was given."""

    def __init__(self, tokenizer: Any, conversation: str):
        self.tokenizer, self.max_context, self.max_concurrent = tokenizer, 100_000, 8
        self.conversation = conversation
        self.prompts: list[list[int]] = []

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        self.prompts.append(token_ids)
        prompt = self.tokenizer.decode(token_ids)
        assert self.conversation.startswith(prompt)
        rest = self.conversation[len(prompt) :]
        end = min((rest.find(stop) + len(stop) for stop in params.stop if stop in rest), default=len(rest))
        ids = self.tokenizer.encode(rest[:end], add_special_tokens=False)[: params.max_new_tokens]
        return GenerationResult(self.tokenizer.decode(ids), ids, [], "stop", len(ids))

    async def close(self) -> None: ...
