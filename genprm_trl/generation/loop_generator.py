"""A generator whose requests run in a separate thread, whoever asks."""

from __future__ import annotations

import asyncio
from abc import abstractmethod

from genprm_trl._loops import LoopThread
from genprm_trl.errors import GenPRMError
from genprm_trl.generation.assembly import refuse
from genprm_trl.generation.base import GenerationResult, Generator, SamplingParams

# What becomes of a request that is under way when its generator is closed.
CLOSED = GenerationResult("", [], finish_reason="error", message="the generator was closed")


class LoopGenerator(Generator):
    """The part of a generator that faces any number of tasks, event loops and threads.

    Subclasses set `tokenizer`, `max_context` and `max_concurrent` while they are made, and carry out `_generate`. It
    runs in the thread that owns what they talk to.

    Args:
        thread_name: The thread's name.
    """

    def __init__(self, thread_name: str):
        self._closed = False
        self._loop = LoopThread(thread_name)

    async def generate(
        self, token_ids: list[int], params: SamplingParams, *, affinity: str | None = None
    ) -> GenerationResult:
        """Continues `token_ids`; see `Generator.generate`. Cancelling the awaiting task ends the request."""
        if self._closed:
            raise GenPRMError("the generator is closed; make a new one")
        if refusal := refuse(token_ids, params, self.max_context):
            return refusal
        return await self._loop.call(self._generate(list(token_ids), params, affinity))

    async def close(self) -> None:
        """Frees everything. Requests still in flight end with reason `error`. May be called again."""
        await asyncio.to_thread(self._shut_down)

    @abstractmethod
    async def _generate(self, token_ids: list[int], params: SamplingParams, affinity: str | None) -> GenerationResult:
        """Carries out a request that fits the context."""

    @abstractmethod
    def _shut_down(self) -> None:
        """Sets `_closed`, ends the requests under way with `CLOSED`, and closes `_loop`. May be called again."""
