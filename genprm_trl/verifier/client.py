"""The client of the verifier's HTTP service (`genprm serve`): a `GenPRM` that judges elsewhere.

from genprm_trl.client import VerifierClient

prm = VerifierClient("http://verifier:8000", n=8)
for verdict in prm.verify_all(solutions):
    print(verdict.id, verdict.prediction)
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
import os
import ssl
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import aiohttp
import tenacity

from genprm_trl.errors import ConfigError, DataError, GenPRMError, check_at_least, check_positive
from genprm_trl.generation.replicas import Replica, ReplicaPool, authorization, retry_after, server_addresses
from genprm_trl.records import Solution, Verdict
from genprm_trl.rows.jsonl import as_row, parse_json
from genprm_trl.verifier.base import Verifier, check_steps

logger = logging.getLogger(__name__)

# What a request may ask for; the rest is the server's own.
REQUEST_OPTIONS = ("n", "mode", "stop", "adaptive", "threshold", "seed")
TOKEN_VARIABLE = "GENPRM_SERVICE_TOKEN"
# A server that failed is left alone for so long while there are others.
_COOL_DOWN = 10.0
_LONGEST_PAUSE = 30.0
_QUIET = 15.0  # seconds without progress that are no news: a busy server, a network that hiccups
# Verdicts that may wait to be taken before no further request is sent.
_AHEAD = 1024
# How often a solution may meet a defect of the server before it is left out.
_MAX_DEFECTS = 3


class ServiceError(GenPRMError):
    """The service refuses or stays away. Finished verdicts have been yielded already.

    Attributes:
        refused: Reasons by id of the solutions that cannot be judged; empty if the error is not about single ones.
    """

    def __init__(self, message: str, refused: Mapping[str, str] | None = None):
        super().__init__(message)
        self.refused = dict(refused or {})


class _Unavailable(Exception):
    """A failed attempt; another one may succeed.

    Attributes:
        pause: Seconds that the server asks to wait for.
        elsewhere: Whether there is another server to try at once.
    """

    def __init__(self, message: str, pause: float = 0.0):
        super().__init__(message)
        self.pause = pause
        self.elsewhere = False


class VerifierClient(Verifier):
    """A verifier whose solutions are judged on one or several servers.

    Solutions go out in batches, and verdicts come back as they finish. If a server is busy, unreachable, or breaks
    off, only the missing solutions are sent again, to another server if there is one. Equal seeds give equal verdicts
    on any server, so judging a solution twice changes nothing.

    Args:
        urls: Addresses of the servers, for example `http://127.0.0.1:8000`. Each batch goes to the least busy one.
        token: The bearer token. Default: the environment variable GENPRM_SERVICE_TOKEN, if it is set.
        n, mode, stop, adaptive, threshold, seed: Options of the verifier; default: what the server was started with.
        rationales: False leaves texts and code out of the verdicts: they then hold rewards, statuses, token counts.
        batch_size: Solutions per request.
        concurrency: Requests in flight at once.
        timeout: Seconds to wait for a connection, and for a sign of life on it (servers send one every 10 s).
        patience: Seconds without any progress after which an attempt that fails is the last one (`ServiceError`).
        ca_file: PEM file of the authority that signed the certificates of `https://` servers. Default: those that
            the system trusts, or that the environment variable SSL_CERT_FILE names.

    Raises:
        ConfigError: A URL or `ca_file` cannot be used, or an option is out of range.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        token: str | None = None,
        n: int | None = None,
        mode: str | None = None,
        stop: Literal["never", "first_error"] | None = None,
        adaptive: Literal["off", "exact"] | None = None,
        threshold: float | None = None,
        seed: int | None = None,
        rationales: bool = True,
        batch_size: int = 32,
        concurrency: int = 8,
        timeout: float = 60.0,
        patience: float = 300.0,
        ca_file: str | None = None,
    ):
        check_positive(batch_size=batch_size, concurrency=concurrency, timeout=timeout)
        check_at_least(0, patience=patience)
        # Never waited for, so that calls in any event loop share it: there is always one that can be used.
        self._pool = ReplicaPool(server_addresses([urls] if isinstance(urls, str) else urls))
        self._token = token if token is not None else os.environ.get(TOKEN_VARIABLE)
        options = {"n": n, "mode": mode, "stop": stop, "adaptive": adaptive, "threshold": threshold, "seed": seed}
        self._options: dict[str, Any] = {"rationales": rationales, "stream": True}
        self._set({name: value for name, value in options.items() if value is not None})
        self._batch_size, self._concurrency = batch_size, concurrency
        self._timeout, self._patience = timeout, patience
        try:
            self._tls = None if ca_file is None else ssl.create_default_context(cafile=ca_file)
        except OSError as error:  # SSLError is one
            raise ConfigError(f"the file {ca_file} holds no certificate of an authority: {error}") from None

    def _set(self, options: Mapping[str, Any]) -> None:
        check_at_least(1, n=options.get("n"))
        self._options = {**self._options, **options}
        vars(self).update(options)

    def with_options(self, **changes: Any) -> Self:
        """A client of the same servers with other options of the verifier: `with_options(mode="direct", n=8)`.

        Raises:
            ConfigError: There is no such option, or n is below 1.
        """
        super().with_options(**{name: value for name, value in changes.items() if name not in REQUEST_OPTIONS})
        changed = copy.copy(self)
        changed._set(changes)
        return changed

    @property
    def concurrency(self) -> int:
        """Requests in flight at once."""
        return self._concurrency

    async def verify(self, solution: Solution) -> Verdict:
        """Judges one solution.

        Raises:
            ConfigError: The solution has no steps.
            ServiceError: It was refused, or the service stays away.
        """
        check_steps(solution)
        async with contextlib.aclosing(self.verify_stream([solution])) as verdicts:
            return await anext(verdicts)

    async def verify_further(
        self, solution: Solution, verdict: Verdict | None = None, *, affinity: str | None = None
    ) -> Verdict:
        """Judges all steps of a solution again, because servers keep no chains.

        Raises:
            ServiceError: It was refused, or the service stays away.
        """
        return await self.with_options(stop="never", adaptive="off").verify(solution)

    async def verify_stream(self, solutions: Iterable[Solution]) -> AsyncGenerator[Verdict, None]:
        """Judges many solutions and yields each verdict as it comes.

        Solutions are taken from the iterable only as requests become free, so it may be longer than memory.

        Raises:
            ServiceError: The service refuses the request or stays away; what had come by then has been yielded. Or, at
                the end, single solutions could not be judged: they are in the error's `refused`, and all others have
                been yielded.
        """
        # A session for each call: connections belong to the event loop that made them, and callers have several.
        async with self._session() as http:
            batches = _batched(solutions, self._batch_size)
            run = _Run(http, self._pool, self._token, self._options, self._patience, batches)
            workers = [asyncio.create_task(run.work()) for _ in range(self._concurrency)]
            try:
                working = len(workers)
                while working:
                    verdict = await run.results.get()
                    run.room.set()
                    if verdict is not None:
                        yield verdict
                        continue
                    working -= 1
                    failed = [worker for worker in workers if worker.done() and worker.exception() is not None]
                    if failed:
                        while not run.results.empty():
                            if (verdict := run.results.get_nowait()) is not None:
                                yield verdict
                        failed[0].result()
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        if run.refused:
            name, reason = next(iter(run.refused.items()))
            others = f" (and {len(run.refused) - 1} others)" if len(run.refused) > 1 else ""
            raise ServiceError(f"no verdict of the solution '{name}'{others}: {reason}", refused=run.refused)

    async def wait_until_ready(self, seconds: float = 600.0) -> None:
        """Waits until every server has loaded its model.

        Raises:
            ServiceError: One is not ready after `seconds`.
        """
        deadline = time.monotonic() + seconds
        async with self._session() as http:
            for replica in self._pool.replicas:
                while reason := await self._trouble(http, replica.url):
                    if time.monotonic() >= deadline:
                        raise ServiceError(f"{replica.name} is not ready after {seconds:g} s: {reason}")
                    await asyncio.sleep(min(1.0, max(deadline - time.monotonic(), 0.01)))

    async def _trouble(self, http: aiohttp.ClientSession, url: str) -> str | None:
        try:
            headers = authorization(url, self._token)
            async with http.get(f"{url}/health", headers=headers, allow_redirects=False) as answer:
                return None if answer.status == 200 else _message(answer.status, await answer.read())
        except (aiohttp.ClientError, OSError) as error:
            return _describe(error)

    def _session(self) -> aiohttp.ClientSession:
        headers = {"Accept": "application/x-ndjson", "Content-Type": "application/json"}
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._tls or True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeout, sock_read=self._timeout),
            headers=headers,
            trust_env=True,
        )


class _Run:
    """One call of `verify_stream`: what its workers share.

    Attributes:
        results: Verdicts as they come, and None for each worker that has ended.
        room: Set while `results` is short enough for more work to be started.
        refused: Reasons by id of the solutions that cannot be judged.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        pool: ReplicaPool,
        token: str | None,
        options: dict[str, Any],
        patience: float,
        batches: Iterator[list[Solution]],
    ):
        self._http, self._pool, self._token, self._options, self._patience = http, pool, token, options, patience
        self._batches = batches
        self._defects: Counter[str] = Counter()
        self.results: asyncio.Queue[Verdict | None] = asyncio.Queue()
        self.room = asyncio.Event()
        self.room.set()
        self.refused: dict[str, str] = {}

    async def work(self) -> None:
        """Has one batch after the other judged, until there is none."""
        try:
            for batch in self._batches:
                await self._judge({solution.id: solution for solution in batch})
                if self.results.qsize() > _AHEAD:
                    self.room.clear()
                await self.room.wait()
        finally:
            self.results.put_nowait(None)

    async def _judge(self, missing: dict[str, Solution]) -> None:
        """Puts a verdict for each solution into `results`, or its id into `refused`."""
        while missing:
            started = time.monotonic()
            retrying = tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception_type(_Unavailable),
                stop=tenacity.stop_after_delay(self._patience),
                wait=self._pause,
                before_sleep=_log_retry,
            )
            try:
                # Returns as soon as an attempt has brought anything, so that patience starts again with progress.
                await retrying(self._attempt, missing)
            except tenacity.RetryError as error:
                last = error.last_attempt.exception()
                waited = round(time.monotonic() - started, 1)
                raise ServiceError(
                    f"the verifier service stays unavailable ({last}); given up after {waited:g} s without "
                    f"progress, with {len(missing)} solutions of a request missing"
                ) from None

    def _pause(self, state: tenacity.RetryCallState) -> float:
        """Seconds before the next attempt; the last one is made when patience ends."""
        return min(_pause(state), max(self._patience - (state.seconds_since_start or 0.0), 0.01))

    async def _attempt(self, missing: dict[str, Solution]) -> None:
        """Sends what is missing to a server; takes what comes out of `missing`."""
        replica = await self._pool.acquire()
        before = len(missing)
        try:
            await self._exchange(replica, missing)
        except _Unavailable as failure:
            failure.elsewhere = self._pool.set_aside(replica, _COOL_DOWN)
            if len(missing) == before:
                raise
            logger.info("%s; sending the other %d solutions again", failure, len(missing))
        finally:
            self._pool.release(replica)

    async def _exchange(self, replica: Replica, missing: dict[str, Solution]) -> None:
        url = replica.name
        rows = [{"id": s.id, "problem": s.problem, "steps": s.steps, "label": s.label} for s in missing.values()]
        # In ASCII, so that even what is not valid Unicode gets there, to be refused by name.
        body = json.dumps({"solutions": rows, **self._options}).encode()
        failure = "the answer was incomplete"
        try:
            headers = authorization(replica.url, self._token)
            async with self._http.post(
                f"{replica.url}/verify", data=body, headers=headers, allow_redirects=False
            ) as answer:
                if answer.status != 200:
                    self._refuse(answer.status, answer.headers, await answer.read(), missing, url)
                    return
                async for line in _lines(answer.content):
                    if not line.strip():  # a sign of life
                        continue
                    row = as_row(parse_json(line.decode(), file=url), file=url, row=1)
                    if "error" in row:
                        failure = self._note(row, missing)
                        continue
                    verdict = Verdict.from_dict(row)
                    solution = missing.get(verdict.id)
                    if solution is None or verdict.solution_digest != solution.digest:
                        raise ServiceError(f"{url} answered for a solution that it was not asked about")
                    del missing[verdict.id]
                    self.results.put_nowait(verdict)
        except (aiohttp.ClientError, OSError) as error:
            raise _Unavailable(f"{url}: {_describe(error)}") from None
        except (DataError, UnicodeDecodeError) as error:  # a line that was cut, or not one of ours
            raise _Unavailable(f"{url} sent something unreadable: {getattr(error, 'message', error)}") from None
        if missing:
            raise _Unavailable(f"{url}: {failure}")

    def _note(self, row: dict[str, Any], missing: dict[str, Solution]) -> str:
        """Takes in that a solution got no verdict. A defect on the server's side may be the solution's fault."""
        error, identity = row["error"], row.get("id")
        message = str(error.get("message")) if isinstance(error, dict) else "an error without a message"
        if isinstance(identity, str) and isinstance(error, dict) and error.get("type") == "internal":
            self._defects[identity] += 1
            if self._defects[identity] >= _MAX_DEFECTS and missing.pop(identity, None) is not None:
                self.refused[identity] = message
        return message

    def _refuse(
        self, status: int, headers: Mapping[str, str], content: bytes, missing: dict[str, Solution], url: str
    ) -> None:
        """Draws the consequences of a status other than 200.

        Raises:
            _Unavailable: Another attempt may succeed.
            ServiceError: None will.
        """
        message = f"{url}: {_message(status, content)}"
        if status in (408, 429) or status >= 500:
            raise _Unavailable(message, retry_after(headers.get("Retry-After")))
        row = _error_of(content).get("row")
        if status != 422 or not isinstance(row, int) or not 1 <= row <= len(missing):
            raise ServiceError(message)
        # One solution is to blame; the others need not suffer for it.
        identity = list(missing)[row - 1]
        del missing[identity]
        self.refused[identity] = message


def _batched(solutions: Iterable[Solution], size: int) -> Iterator[list[Solution]]:
    """Batches of at most `size`, in which every id is there once: it is how a verdict is known."""
    batch: dict[str, Solution] = {}
    for solution in solutions:
        if len(batch) == size or solution.id in batch:
            yield list(batch.values())
            batch = {}
        batch[solution.id] = solution
    if batch:
        yield list(batch.values())


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next attempt: exponential with jitter, and at least what the server asks for."""
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, _Unavailable)
    if error.elsewhere:
        return 0.0
    backoff = float(tenacity.wait_random_exponential(multiplier=0.5, max=_LONGEST_PAUSE)(state))
    return max(backoff, error.pause)


def _log_retry(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    pause = state.next_action.sleep if state.next_action is not None else 0.0
    # Who waits for minutes wants to know what for.
    is_long = (state.seconds_since_start or 0.0) >= _QUIET
    logger.log(logging.WARNING if is_long else logging.INFO, "%s; trying again in %.1f s", error, pause)


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """The lines of an answer. Those with long rationales are longer than the reader's own bound on lines."""
    pieces: list[bytes] = []
    async for part in content.iter_any():
        *ended, rest = part.split(b"\n")
        for piece in ended:
            yield b"".join([*pieces, piece])
            pieces.clear()
        pieces.append(rest)
    yield b"".join(pieces)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _error_of(content: bytes) -> dict[str, Any]:
    with contextlib.suppress(DataError, UnicodeDecodeError):
        row = parse_json(content.decode(), file="answer")
        if isinstance(row, dict) and isinstance(row.get("error"), dict):
            return dict(row["error"])
    return {}


def _message(status: int, content: bytes) -> str:
    error = _error_of(content)
    if not error and content.startswith(b'{"status"'):  # /health
        with contextlib.suppress(DataError):
            error = {"message": parse_json(content.decode("utf-8", "replace"), file="answer").get("reason")}
    return f"status {status}: {error.get('message') or content[:200].decode('utf-8', 'replace')}"
