"""The generator as the service sees it: what it is doing, what it has done, and whether it still answers."""

from __future__ import annotations

import asyncio
import time

from genprm_trl._loops import SharedCall
from genprm_trl.errors import GenPRMError
from genprm_trl.generation.base import GenerationResult, Generator, SamplingParams
from genprm_trl.service.metrics import Metrics


class ObservedGenerator(Generator):
    """Passes requests on to a generator, counts them, and knows whether the engine is alive.

    The engine is alive if it answered lately. An idle engine is asked for one token. A working engine counts as alive
    until it has finished nothing for `stall_seconds`, because a question would only queue behind the work.

    Args:
        generator: The generator.
        metrics: The service's metrics, which count its work.
        fresh_seconds: How long an answer is proof of life.
        probe_seconds: How long the engine may take for its one token.
        stall_seconds: How long it may work without finishing anything.
    """

    def __init__(
        self,
        generator: Generator,
        metrics: Metrics,
        *,
        fresh_seconds: float = 10.0,
        probe_seconds: float = 30.0,
        stall_seconds: float = 600.0,
    ):
        self._generator, self._metrics = generator, metrics
        self.tokenizer, self.max_context = generator.tokenizer, generator.max_context
        self.max_concurrent = generator.max_concurrent
        self._fresh, self._patience, self._stall = fresh_seconds, probe_seconds, stall_seconds
        self._in_flight = 0
        self._failing: str | None = None  # why the last answer was a failure
        self._answered = float("-inf")  # when the last good answer came
        self._progress = float("-inf")  # when anything came, or work began after a pause
        self._probe = SharedCall(self._ask)

    async def close(self) -> None:
        """Closes the generator."""
        await self._generator.close()

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        """Continues `token_ids`; see `Generator.generate`."""
        metrics, started = self._metrics, time.monotonic()
        if not self._in_flight:
            self._progress = started
        self._in_flight += 1
        metrics.generations_in_flight.inc()
        reason = "failed"
        try:
            result = await self._generator.generate(token_ids, params, affinity=affinity)
            reason = result.finish_reason
            metrics.prompt_tokens.inc(len(token_ids))
            metrics.generated_tokens.inc(result.num_generated)
            self._note(result.message or "a generation failed" if reason == "error" else None)
            return result
        except asyncio.CancelledError:
            reason = "cancelled"
            raise
        except Exception as error:
            self._note(str(error) if isinstance(error, GenPRMError) else type(error).__name__)
            raise
        finally:
            self._in_flight -= 1
            metrics.generations_in_flight.dec()
            metrics.generations.labels(reason).inc()
            metrics.generation_seconds.observe(time.monotonic() - started)

    def _note(self, failure: str | None) -> None:
        self._failing = failure
        self._progress = time.monotonic()
        if failure is None:
            self._answered = self._progress

    async def trouble(self) -> str | None:
        """What is wrong with the engine, or None if it answers."""
        now = time.monotonic()
        if self._failing is None:
            if now - self._answered < self._fresh:
                return None
            if self._in_flight and not self._probe.is_running:
                stalled = now - self._progress > self._stall
                return f"nothing has come from the engine for {now - self._progress:.0f} s" if stalled else None
        return await self._probe()

    async def _ask(self) -> str | None:
        prompt = list(self._generator.tokenizer.encode("1", add_special_tokens=False))
        try:
            async with asyncio.timeout(self._patience):
                await self.generate(prompt, SamplingParams(max_new_tokens=1, temperature=0, logprobs=0))
        except TimeoutError:
            self._note(f"the engine did not answer within {self._patience:.0f} s")
        except Exception:  # noted where it came up
            pass
        return self._failing
