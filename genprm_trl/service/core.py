"""The state of the service: loading, ready or stopping, and the way of a request from its checks to its verdicts."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from genprm_trl.errors import ConfigError
from genprm_trl.rows.secrets import mask_text
from genprm_trl.service.errors import ServiceRefusal
from genprm_trl.service.limits import ServiceLimits
from genprm_trl.service.metrics import Metrics
from genprm_trl.service.observed_generator import ObservedGenerator
from genprm_trl.service.observed_sandbox import ObservedSandbox
from genprm_trl.service.scheduler import Batch, Failure, Scheduler
from genprm_trl.service.schemas import Work
from genprm_trl.verifier.base import Verifier
from genprm_trl.verifier.genprm import GenPRM

logger = logging.getLogger(__name__)

_LOADING, _STOPPING = "the model is being loaded", "the server is stopping"


class VerifierService:
    """What one application serves.

    Args:
        limits: What a caller may ask.

    Attributes:
        metrics: The Prometheus metrics of the service.
        requests: Requests to `/verify` in progress.
    """

    def __init__(self, limits: ServiceLimits):
        self.limits, self.metrics = limits, Metrics()
        self.requests = 0
        self._prm: Verifier | None = None
        self._generator: ObservedGenerator | None = None
        self._sandbox: ObservedSandbox | None = None
        self._scheduler: Scheduler | None = None
        self._stopping = False

    def attach(self, prm: Verifier) -> None:
        """Gives the service its verifier, once it is loaded. The service closes it.

        Raises:
            ConfigError: The verifier asks for more rationales than the limits allow.
        """
        if prm.n > self.limits.max_n:
            raise ConfigError(f"n is {prm.n}, and requests may ask for {self.limits.max_n} (max_n)")
        self._scheduler = Scheduler(prm.concurrency * prm.fewest_chains, self.limits.max_queue, self.metrics)
        if isinstance(prm, GenPRM):
            self._generator = ObservedGenerator(prm.generator, self.metrics)
            if prm.sandbox is not None and prm.runs_code:
                self._sandbox = ObservedSandbox(prm.sandbox)
            prm = prm.with_options(generator=self._generator)
        self._prm = prm

    @property
    def prm(self) -> Verifier | None:
        """The verifier with its default options, None while it is being loaded."""
        return self._prm

    async def trouble(self) -> str | None:
        """Why the service is not ready, or None if it is."""
        reason = await self._trouble()
        if reason is not None:
            reason = mask_text(reason)  # an engine's message may quote addresses and keys; anybody may ask for health
        self.metrics.ready.set(reason is None)
        return reason

    async def _trouble(self) -> str | None:
        if self._stopping:
            return _STOPPING
        if self._prm is None:
            return _LOADING
        trouble = None if self._generator is None else await self._generator.trouble()
        return trouble if trouble or self._sandbox is None else await self._sandbox.trouble()

    async def admit(self) -> None:
        """Refuses a request that could not be worked on now, before its body is read.

        Raises:
            ServiceRefusal: 503 if the service is not ready, 429 if it has enough to do.
        """
        if trouble := await self.trouble():
            raise ServiceRefusal(503, "not_ready", trouble, retry_after=5)
        if self.requests > self.limits.max_requests:
            raise self._busy(f"{self.limits.max_requests} requests are in progress")
        assert self._scheduler is not None
        if self._scheduler.full:
            raise self._busy("the queue is full")

    def _busy(self, what: str) -> ServiceRefusal:
        assert self._scheduler is not None
        return ServiceRefusal(
            429, "busy", f"{what}; come back later", retry_after=self._scheduler.seconds_until_room()
        )

    def submit(self, work: Work) -> Batch:
        """Queues a request's solutions. The caller must `drop` the batch in the end.

        Raises:
            ServiceRefusal: 422 for options that this verifier cannot follow; 429 or 503 if things have changed since
                the request was admitted.
        """
        if self._stopping:
            raise ServiceRefusal(503, "not_ready", _STOPPING, retry_after=5)
        assert self._prm is not None
        assert self._scheduler is not None
        if self._scheduler.full:
            raise self._busy("the queue is full")
        try:
            prm = self._prm.with_options(**work.request.changes())
        except ConfigError as error:
            raise ServiceRefusal(422, "invalid_request", str(error)) from None
        return self._scheduler.submit(prm, work.solutions, n=prm.n, chains=prm.fewest_chains)

    def drop(self, batch: Batch) -> None:
        """Forgets a batch, and cancels what it has not finished."""
        if self._scheduler is not None:
            self._scheduler.drop(batch)

    async def drain(self, seconds: float) -> None:
        """Takes no more requests. What is not finished after `seconds` ends with an error."""
        self._stopping = True
        self.metrics.ready.set(0)
        scheduler = self._scheduler
        if scheduler is None:
            return
        if not scheduler.idle.is_set():
            logger.info("finishing what is in progress (at most %g s)", seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await scheduler.idle.wait()
        scheduler.end(Failure("stopping", f"{_STOPPING}; send this solution again"))

    async def close(self) -> None:
        """Frees the verifier."""
        self._stopping = True
        if self._prm is not None:
            await self._prm.close()
