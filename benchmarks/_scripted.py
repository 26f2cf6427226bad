"""A model that costs nothing: it answers each request of a verification with prepared text at once."""

from __future__ import annotations

import asyncio
from typing import Any

from genprm_trl.generation.base import GenerationResult, Generator, SamplingParams
from genprm_trl.protocol import genprm
from genprm_trl.sandbox.base import ExecutionResult, Sandbox, Session


class ScriptedModel(Generator):
    """Writes an analysis, code and a verdict of given lengths; what the verifier asks for tells which.

    Args:
        tokenizer: A tokenizer in which the protocol's fixed phrases are tokens (the miniature world's).
        analysis_tokens, code_tokens: Tokens of the two parts.

    Attributes:
        tokens: Tokens "generated" so far.
        requests: Requests answered so far.
    """

    max_context, max_concurrent = 10**6, 256

    def __init__(self, tokenizer: Any, analysis_tokens: int, code_tokens: int):
        self.tokenizer = tokenizer
        self.tokens = self.requests = 0
        self._before_code = self._encode(genprm.VERIFY_PREFIX)[-1]
        self._analysis = self._result(" so" * analysis_tokens + genprm.ANALYZE_END)
        self._code = self._result(" x" * code_tokens + genprm.CODE_END)
        verdict = f"{genprm.VERIFY_END}{genprm.OUTPUT_PREFIX}{{Yes}}$\n{genprm.OUTPUT_END}"
        self._verdict, self._verdict_scored = self._result(verdict), self._result(verdict, logprobs=True)
        yes = self._encode("{Yes}")[:1]
        self._score = GenerationResult(tokenizer.decode(yes), yes, [{yes[0]: -0.1, 5: -2.0}], "length", 1)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _result(self, text: str, logprobs: bool = False) -> GenerationResult:
        ids = self._encode(text)
        maps = [{token: -0.1, 5: -2.0} for token in ids] if logprobs else []
        return GenerationResult(text, ids, maps, "stop", len(ids))

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        await asyncio.sleep(0)  # let other chains in, as any real generator does
        if params.max_new_tokens == 1:
            result = self._score
        elif params.stop == (genprm.ANALYZE_END,):
            result = self._analysis
        elif token_ids[-1] == self._before_code:
            result = self._code
        else:
            result = self._verdict_scored if params.logprobs else self._verdict
        self.requests += 1
        self.tokens += result.num_generated
        return result

    async def close(self) -> None: ...


class InstantSandbox(Sandbox, Session):
    """Runs nothing and says True."""

    def session(self) -> InstantSandbox:
        return self

    async def run(self, code: str) -> ExecutionResult:
        return ExecutionResult("True", "ok", 0.0)

    async def close(self) -> None: ...
