"""A real generator with faults to order, for commands that run in a separate process.

    GENPRM_TEST_FAULTS="fail:20-60" genprm verify ... --backend tests.helpers.faulty_generator:FaultyGenerator

Requests are counted from 0. `fail:A-B` fails requests A to B (a server that is away for a while), `die:A` raises from
request A on (an engine that is gone), `hang:A` never answers from request A on.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from genprm_trl.errors import GenPRMError
from genprm_trl.generation import TransformersGenerator
from genprm_trl.generation.base import GenerationResult, SamplingParams


class FaultyGenerator(TransformersGenerator):
    def __init__(self, model: Any, tokenizer: Any = None, **options: Any):
        super().__init__(model, tokenizer, **options)
        self.requests = 0
        kind, _, numbers = os.environ.get("GENPRM_TEST_FAULTS", "none:0").partition(":")
        first, _, last = numbers.partition("-")
        self.kind, self.first, self.last = kind, int(first), int(last or 10**9)

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        number = self.requests
        self.requests += 1
        if self.first <= number <= self.last:
            if self.kind == "die":
                raise GenPRMError("the engine died")
            if self.kind == "hang":
                await asyncio.Event().wait()
            if self.kind == "fail":
                return GenerationResult("", [], finish_reason="error", message="the server is away")
        return await super().generate(token_ids, params, affinity=affinity)
