"""A generator whose verdicts hang on text and seed alone: `--backend tests.helpers.judging_generator:Judging`."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Any

from genprm_trl.generation.base import GenerationResult, SamplingParams
from tests.helpers.scripted_generator import Reply, ScriptedGenerator

BACKEND = "tests.helpers.judging_generator:Judging"


class Judging(ScriptedGenerator):
    """Writes an analysis, a line of code and a verdict, with a probability of Yes drawn from prompt and seed.

    Greedy requests (temperature 0) draw it from the prompt alone, as a model does.
    """

    def __init__(self, model: Any, tokenizer: Any = None):
        super().__init__(_reply, None)
        self.model = model

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        drawn = replace(params, logprobs=max(params.logprobs, 2))
        result = await super().generate(token_ids, drawn, affinity=affinity)
        chance = _chance(token_ids, params.seed if params.temperature > 0 else None)
        [yes], [no] = self._encode("{Yes"), self._encode("{No")  # tokens of the tiny tokenizer
        for position, (token, known) in enumerate(zip(result.token_ids, result.top_logprobs, strict=True)):
            if token == yes:
                result.top_logprobs[position] = {**known, yes: math.log(chance), no: math.log(1 - chance)}
        return result


def _reply(prompt: str) -> str | Reply:
    turn = prompt.rpartition("<|im_start|>assistant\n")[2]
    if turn.endswith("step by step: "):
        return "It is an equation. </analyze>\n"
    if turn.endswith("```python\n"):
        return "print(6 * 7)\n```\n"
    if turn.endswith("```\n"):
        return "</verify>\n<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n"
    return "{Yes}$\n</output>\n"


def _chance(token_ids: list[int], seed: int | None) -> float:
    digest = hashlib.blake2b(repr((token_ids, seed)).encode(), digest_size=8).digest()
    return 0.15 + 0.84 * int.from_bytes(digest) / 2**64


class Failing(Judging):
    """The same, and it fails on every request about a problem that holds the word `boom`."""

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        if "boom" in self.tokenizer.decode(token_ids):
            return GenerationResult("", [], finish_reason="error", message="the engine broke")
        return await super().generate(token_ids, params, affinity=affinity)


class Unloadable(Judging):
    """A model whose loading must not be come to."""

    def __init__(self, model: Any, tokenizer: Any = None):
        raise AssertionError("a model was loaded")
