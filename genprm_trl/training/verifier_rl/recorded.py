"""Which tokens of a conversation a model sampled: what a policy gradient may be taken of."""

from __future__ import annotations

from dataclasses import replace

from genprm_trl.generation.base import GenerationResult, Generator, SamplingParams


class RecordedGenerator(Generator):
    """A generator for one chain that remembers what was sampled, and bounds the conversation's length.

    No log-probabilities are handed on, so that a verdict is the word that was sampled and not its probability.

    Args:
        generator: What generates. It stays its owner's to close.
        max_completion_tokens: Bound on what may follow the first prompt, whoever writes it.

    """

    def __init__(self, generator: Generator, max_completion_tokens: int):
        self._generator = generator
        self._bound = max_completion_tokens
        self.tokenizer = generator.tokenizer
        self.max_context = generator.max_context
        self.max_concurrent = generator.max_concurrent
        self._ids: list[int] = []  # the conversation after the last request
        self._sampled: list[bool] = []  # for each of them

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        """Continues `token_ids`; see `Generator.generate`."""
        if not self._ids:
            self.max_context = min(self.max_context, len(token_ids) + self._bound)
        room = self.max_context - len(token_ids)
        # Tokens that spilled over a stop string were encoded again. They are told by their missing log-probabilities.
        asked = replace(params, max_new_tokens=min(params.max_new_tokens, room), logprobs=1, logprob_token_ids=())
        result = await self._generator.generate(token_ids, asked, affinity=affinity)
        known = _common_prefix(self._ids, token_ids)
        self._ids = [*token_ids, *result.token_ids]
        self._sampled = [
            *self._sampled[:known],
            *[False] * (len(token_ids) - known),
            *[bool(result.top_logprobs[at]) for at in range(len(result.token_ids))],
        ]
        if result.finish_reason == "length" and room < params.max_new_tokens:
            result = replace(result, finish_reason="context")
        return replace(result, top_logprobs=[], end_logprobs={})

    def sampled(self, token_ids: list[int]) -> list[bool]:
        """Which of a conversation's tokens were sampled: False for those that came from elsewhere.

        Args:
            token_ids: The conversation, which may go on after what was generated last.
        """
        known = _common_prefix(self._ids, token_ids)
        return self._sampled[:known] + [False] * (len(token_ids) - known)

    async def close(self) -> None:
        """Does nothing; see `generator`."""


def _common_prefix(first: list[int], second: list[int]) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
