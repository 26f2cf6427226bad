"""Which solution is judged next: a bound on what waits, and a fair turn for each request.

Requests take turns, one solution each, so a small request does not wait for all of a large one. Solutions start until
the chains of the running ones fill the verifier. The verifier's bound on chains in flight then holds back the rest of
the last solution. So no place for a chain is empty while something waits.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
import traceback
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from genprm_trl.errors import GenPRMError
from genprm_trl.metrics.sameness import Sameness
from genprm_trl.records import Solution, Verdict
from genprm_trl.rows.secrets import mask_text
from genprm_trl.service.metrics import Metrics
from genprm_trl.verifier.base import Verifier

logger = logging.getLogger(__name__)

_RATE_WINDOW = 60.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a solution has no verdict.

    Attributes:
        kind: `engine` (the generator gave up), `sandbox` (it did not run the code), `stopping` (the server is),
            `internal` (a defect here).
        message: A sentence for the caller.
    """

    kind: Literal["engine", "sandbox", "stopping", "internal"]
    message: str

    @property
    def is_passing(self) -> bool:
        """Whether the same solution may be judged later, or elsewhere."""
        return self.kind != "internal"


Outcome = Verdict | Failure


class Batch:
    """The solutions of one request and what has become of them. Made by `Scheduler.submit`.

    Attributes:
        verifier: The verifier with the request's options.
        solutions: All of them.
        n: Chains that were asked for, a solution.
        chains: Chains that each of them takes, at least.
    """

    def __init__(self, verifier: Verifier, solutions: Sequence[Solution], n: int, chains: int):
        self.verifier, self.solutions, self.n, self.chains = verifier, solutions, n, chains
        self.waiting: deque[int] = deque(range(len(solutions)))
        self.running: dict[asyncio.Task[None], int] = {}
        self.submitted = time.monotonic()
        self.context = contextvars.copy_context()
        self._results: asyncio.Queue[tuple[int, Outcome]] = asyncio.Queue()

    def put(self, index: int, outcome: Outcome) -> None:
        """Queues what became of the solution at `index` for `outcomes` to yield."""
        self._results.put_nowait((index, outcome))

    async def outcomes(self, pause: float) -> AsyncGenerator[tuple[int, Outcome] | None, None]:
        """Each solution's index and outcome as they come, and None after each `pause` seconds without one."""
        left = len(self.solutions)
        while left:
            try:
                async with asyncio.timeout(pause):
                    item = await self._results.get()
            except TimeoutError:
                yield None
            else:
                left -= 1
                yield item


class Scheduler:
    """Judges the solutions of all requests.

    Args:
        max_chains: Chains of running solutions that keep the verifier busy.
        max_queue: Chains that may wait; see `full`.
        metrics: The service's metrics.

    Attributes:
        idle: Set while there is no batch.
    """

    def __init__(self, max_chains: int, max_queue: int, metrics: Metrics):
        self.max_chains, self.max_queue = max_chains, max_queue
        self._metrics = metrics
        self._turns: deque[Batch] = deque()  # those with waiting solutions
        self._open: set[Batch] = set()
        self.idle = asyncio.Event()
        self.idle.set()
        self._chains_running = self._chains_waiting = 0
        self._sameness = Sameness()
        self._finished: deque[tuple[float, int]] = deque(maxlen=10_000)  # when, and how many chains
        metrics.solutions_waiting.set_function(lambda: sum(len(batch.waiting) for batch in self._turns))
        metrics.solutions_running.set_function(lambda: sum(len(batch.running) for batch in self._open))
        metrics.chains_waiting.set_function(lambda: self._chains_waiting)
        metrics.chains_running.set_function(lambda: self._chains_running)

    @property
    def full(self) -> bool:
        """Whether so many chains wait that no further request should be taken."""
        return self._chains_waiting >= self.max_queue

    def seconds_until_room(self) -> float:
        """A guess at when the queue will have room, from the chains finished during the last minute."""
        now = time.monotonic()
        while self._finished and now - self._finished[0][0] > _RATE_WINDOW:
            self._finished.popleft()
        if not self._finished:
            return 2.0
        rate = sum(chains for _, chains in self._finished) / max(now - self._finished[0][0], 1.0)
        # Half the queue: coming back for a single free place would meet everybody else who does.
        return min(max(self.max_queue / 2 / rate, 1.0), 60.0)

    def submit(self, verifier: Verifier, solutions: Sequence[Solution], *, n: int, chains: int) -> Batch:
        """Takes a request's solutions; arguments as in `Batch`. Whoever submits a batch must `drop` it in the end."""
        batch = Batch(verifier, solutions, n, chains)
        self._open.add(batch)
        self.idle.clear()
        self._turns.append(batch)
        self._chains_waiting += batch.chains * len(solutions)
        self._start_what_fits()
        return batch

    def drop(self, batch: Batch) -> None:
        """Forgets a batch, and cancels what it has not finished."""
        self._withdraw(batch)
        for task in batch.running:
            task.cancel()
        self._open.discard(batch)
        if not self._open:
            self.idle.set()
        self._start_what_fits()

    def end(self, failure: Failure) -> None:
        """Cancels everything unfinished, and says why to those who wait for it."""
        for batch in list(self._open):
            for index in self._withdraw(batch):
                batch.put(index, failure)
            for task, index in batch.running.items():
                if task.cancel():  # not one that has just finished
                    batch.put(index, failure)

    def _withdraw(self, batch: Batch) -> list[int]:
        withdrawn = list(batch.waiting)
        if withdrawn:
            self._turns.remove(batch)
            batch.waiting.clear()
            self._chains_waiting -= batch.chains * len(withdrawn)
            self._metrics.solutions.labels("cancelled").inc(len(withdrawn))
        return withdrawn

    def _start_what_fits(self) -> None:
        while self._turns and self._chains_running < self.max_chains:
            batch = self._turns[0]
            self._turns.popleft()
            index = batch.waiting.popleft()
            if batch.waiting:
                self._turns.append(batch)
            self._chains_waiting -= batch.chains
            self._chains_running += batch.chains
            self._metrics.wait_seconds.observe(time.monotonic() - batch.submitted)
            # In a copy of the request's own context: this may run in that of another request that has just ended.
            task = asyncio.create_task(self._judge(batch, index), context=batch.context.copy())
            batch.running[task] = index
            task.add_done_callback(partial(self._ended, batch))

    def _ended(self, batch: Batch, task: asyncio.Task[None]) -> None:
        # Not in `_judge`: a task that is cancelled before its first step never runs any of its code.
        del batch.running[task]
        self._chains_running -= batch.chains
        if task.cancelled():
            self._metrics.solutions.labels("cancelled").inc()
        self._start_what_fits()

    def _watch_for_sameness(self, verifier: Verifier, verdict: Verdict) -> None:
        """Warns of rationales that are all the same, once as long as they are."""
        sampling = getattr(verifier, "sampling", None)
        if sampling is None or sampling.temperature > 0:
            known = self._sameness.is_total
            self._sameness.add_verdict(verdict)
            if not known:
                self._sameness.warn("rationales of each solution so far")

    async def _judge(self, batch: Batch, index: int) -> None:
        started = time.monotonic()
        outcome: Outcome
        try:
            outcome = await batch.verifier.verify(batch.solutions[index])
        except GenPRMError as error:
            outcome = Failure("engine", mask_text(str(error)))
            logger.warning("no verdict: %s", error)
        except Exception as error:
            outcome = Failure("internal", f"internal error ({type(error).__name__}); the server's log says where")
            log_defect("no verdict", error)
        now = time.monotonic()
        if isinstance(outcome, Verdict):
            self._finished.append((now, batch.chains))
            self._metrics.add_verdict(outcome)
            if _sandbox_failed(outcome):
                outcome = Failure("sandbox", "the server's sandbox failed; send this solution again")
        if isinstance(outcome, Verdict):
            self._metrics.solution_seconds.observe(now - started)
            self._metrics.solutions.labels("verdict").inc()
            self._watch_for_sameness(batch.verifier, outcome)
        else:
            self._metrics.solutions.labels("error").inc()
        batch.put(index, outcome)


def _sandbox_failed(verdict: Verdict) -> bool:
    """Whether a judgement lacks what its code would have printed, which is no fault of the model's."""
    rounds = (code for chain in verdict.chains for judgement in chain for code in judgement.code_rounds)
    return any(code.status == "sandbox_error" for code in rounds)


def log_defect(what: str, error: BaseException) -> None:
    """Logs where an unexpected error came from. Its message may quote a caller's text, so it shows only with -v."""
    frames = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    logger.error("%s: %s\n%s", what, type(error).__name__, frames)
    logger.debug("%s: %s", type(error).__name__, error)
