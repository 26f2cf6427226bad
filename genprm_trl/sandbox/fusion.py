"""A sandbox on another machine: a SandboxFusion server, through its own client package.

The server keeps no state: every request starts a fresh interpreter (`mode="script"`) or kernel (`mode="jupyter"`). A
session therefore sends its earlier blocks with each new one. They take their time again, but their output is dropped.
A block that timed out is not sent again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import secrets
import time
from pathlib import Path
from typing import Any, Literal

from genprm_trl._loops import FairGate
from genprm_trl.errors import ConfigError, MissingExtraError
from genprm_trl.sandbox.base import ExecutionResult, Sandbox, Session
from genprm_trl.sandbox.guest.driver import cut_middle
from genprm_trl.sandbox.guest.wire import STATUSES, TIMEOUT_TEXT
from genprm_trl.sandbox.limits import Limits

logger = logging.getLogger(__name__)

CLIENT_GRACE = 10.0  # seconds that a server gets to queue and start a request, on top of what its blocks may take
PERMANENT = re.compile(r"responded with code 4(?!08|29)\d\d")  # a request that will not be liked better next time


class _ServerError(Exception):
    """The server could not be used. `final`: trying again will not help."""

    def __init__(self, message: str, final: bool = False):
        super().__init__(message.encode("utf-8", "backslashreplace").decode())  # it may quote the server
        self.final = final


class FusionSandbox(Sandbox):
    """Runs code on a SandboxFusion server.

    Usable from several event loops and threads at once. A server that is down, slow, overloaded or answers nonsense
    gives results with the status `sandbox_error`, after `attempts` tries.

    Args:
        endpoint: The server's address. Default: the client package's (environment variable SANDBOX_FUSION_ENDPOINT).
        limits: Bounds of each block; `timeout`, `grace`, `memory` and `output` apply, the rest is the server's matter.
        mode: `script` runs a script per request; `jupyter` runs a notebook, whose kernel takes seconds to start.
        max_concurrency: Requests in flight; the others wait their turn.
        attempts: Tries of each request.
        backoff: Longest pause in seconds before the second try; it doubles with each further one.
        seed: Seeds `random` and numpy's global generator in each session.

    Raises:
        MissingExtraError: The client package is not installed.
        ConfigError: The mode is unknown, the address is invalid, or a number is out of range.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        limits: Limits | None = None,
        *,
        mode: Literal["script", "jupyter"] = "script",
        max_concurrency: int = 8,
        attempts: int = 4,
        backoff: float = 1.0,
        seed: int = 0,
    ):
        try:
            import sandbox_fusion
        except ImportError as error:
            raise MissingExtraError("sandbox-fusion", "fusion", "FusionSandbox") from error
        if mode not in ("script", "jupyter"):
            raise ConfigError(f"Unknown mode '{mode}'. Known: script, jupyter.")
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise ConfigError(f"endpoint must start with http:// or https://, not {endpoint!r}.")
        for name, value in (("max_concurrency", max_concurrency), ("attempts", attempts)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}.")
        if not 0 <= backoff < math.inf or not 0 <= seed < 1 << 32:
            raise ConfigError(f"backoff must be 0 or more, and seed from 0 to 2**32 - 1, not {backoff} and {seed}.")
        self.limits = limits or Limits()
        self._client = sandbox_fusion
        self._endpoint, self._mode, self._seed = endpoint or "", mode, seed
        self._attempts, self._backoff = attempts, backoff
        self._gate = FairGate(max_concurrency)

    def session(self, *, as_published: bool = False) -> FusionSession:
        """A new session. Nothing is sent before its first block."""
        return FusionSession(self, as_published)

    async def close(self) -> None:
        """Nothing to free: connections do not outlive their request."""

    async def check(self) -> None:
        """Lets the server run a block, once and without a second try.

        Raises:
            ConfigError: It does not answer, or cannot run code.
        """
        place = self._endpoint or "the address of the client package"
        try:
            result = await self._request(["print(6 * 7)"])
        except _ServerError as error:
            raise ConfigError(f"the sandbox at {place} cannot be used: {error}") from None
        if (result.status, result.output) != ("ok", "42"):
            said = result.message or result.output
            raise ConfigError(f"the sandbox at {place} cannot run code: {result.status}: {said[:200]}")

    async def _run(self, blocks: list[str], as_published: bool) -> ExecutionResult:
        """Runs blocks in a fresh interpreter and reports the last one."""
        import tenacity

        start = time.perf_counter()
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=tenacity.wait_random_exponential(multiplier=self._backoff, max=30),
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, _ServerError) and not e.final),
            reraise=True,
        )
        try:
            async with self._gate:
                result: ExecutionResult = await retrying(self._request, blocks, as_published)
                return result
        except _ServerError as error:
            logger.warning("SandboxFusion server: %s", error)
            return ExecutionResult("", "sandbox_error", time.perf_counter() - start, f"SandboxFusion server: {error}")

    async def _request(self, blocks: list[str], as_published: bool = False) -> ExecutionResult:
        limits, marker = self.limits, f"<{secrets.token_hex(16)}>"
        request = {
            "blocks": blocks,
            "timeout": limits.timeout,
            "memory": limits.memory,
            "output": limits.output,
            "seed": self._seed,
            "as_published": as_published,
            "marker": marker,
        }
        budget = limits.timeout * len(blocks) + limits.grace
        source = Path(__file__).with_name("guest").joinpath("driver.py").read_text(encoding="utf-8")
        start = time.perf_counter()
        try:
            async with asyncio.timeout(budget + CLIENT_GRACE):
                if self._mode == "script":
                    finished, stdout, reason = await self._script(source, json.dumps(request), budget)
                else:
                    finished, stdout, reason = await self._notebook(source, json.dumps(request), budget)
        except TimeoutError:
            raise _ServerError(f"no answer within {budget + CLIENT_GRACE:.0f} s") from None
        except _ServerError:
            raise
        except Exception as error:  # the client raises bare exceptions, and whatever its libraries raise
            message = f"{type(error).__name__}: {error}"[:500]
            raise _ServerError(message, final=bool(PERMANENT.search(message))) from error
        seconds = time.perf_counter() - start
        if not finished:
            return ExecutionResult(TIMEOUT_TEXT, "timeout", seconds, "hard time-out")
        answer = _last_answer(stdout, marker)
        if answer is None:
            return ExecutionResult(f"Code execute Error: ChildProcessError: {reason}", "killed", seconds, reason)
        # The driver shares its process with the program, which can write what it likes, and at any length.
        output = answer["output"].encode("utf-8", "backslashreplace").decode()
        seconds = min(max(answer["seconds"], 0.0), seconds)
        return ExecutionResult(cut_middle(output, 2 * limits.output + 1000), answer["status"], seconds)

    async def _script(self, source: str, request: str, budget: float) -> tuple[bool, str, str]:
        """Whether the script came to its end in time, its standard output, and how it ended."""
        answer = await self._client.run_code_async(
            self._client.RunCodeRequest(
                code=f"{source}\n\nmain()\n", language="python", stdin=request, run_timeout=budget
            ),
            endpoint=self._endpoint,
            max_attempts=1,
            client_timeout=budget + CLIENT_GRACE,
        )
        run = answer.run_result
        if run is None:
            raise _ServerError("it answered without the result of a run")
        if run.status == self._client.CommandRunStatus.Error:
            raise _ServerError(f"it could not run the program: {(run.stderr or '')[-500:]}")
        finished = run.status != self._client.CommandRunStatus.TimeLimitExceeded
        return finished, run.stdout or "", f"the process exited with code {run.return_code}"

    async def _notebook(self, source: str, request: str, budget: float) -> tuple[bool, str, str]:
        """The same for a notebook of two cells: the driver, and the call that runs all blocks."""
        call = f"import json as _json, sys as _sys\nrun_blocks(_json.loads({request!r}), _sys.stdout)"
        answer = await self._client.run_jupyter_async(
            self._client.RunJupyterRequest(cells=[source, call], cell_timeout=budget, total_timeout=budget + 5),
            endpoint=self._endpoint,
            max_attempts=1,
            client_timeout=budget + CLIENT_GRACE,
        )
        if answer.status == self._client.RunStatus.Success and len(answer.cells) == 2:
            return True, answer.cells[1].stdout, "the kernel reported no result"
        driver = answer.driver
        if driver is None:
            raise _ServerError("it answered without the result of a run")
        if driver.status == self._client.CommandRunStatus.Error:
            raise _ServerError(f"it could not run the notebook: {(driver.stderr or '')[-500:]}")
        finished = driver.status != self._client.CommandRunStatus.TimeLimitExceeded
        return finished, "", f"the kernel ended, its driver with code {driver.return_code}"


class FusionSession(Session):
    """One namespace, rebuilt on the server with every block. Made by `FusionSandbox.session`."""

    def __init__(self, sandbox: FusionSandbox, as_published: bool = False):
        self._sandbox, self._as_published = sandbox, as_published
        self._turn = FairGate(1)
        self._history: list[str] = []
        self._closed = False

    async def run(self, code: str) -> ExecutionResult:
        """Runs a block after those that wait before it. Never raises for anything the code or the server does."""
        async with self._turn:
            if self._closed:
                return ExecutionResult("", "sandbox_error", 0.0, "The session is closed.")
            result = await self._sandbox._run([*self._history, code], self._as_published)
            # What a block that raised had defined by then stays, and what the server lost runs before the next block.
            if result.status in ("ok", "error", "sandbox_error"):
                self._history.append(code)
            return result

    async def close(self) -> None:
        """Safe to call twice."""
        self._closed = True


def _last_answer(stdout: str, marker: str) -> dict[str, Any] | None:
    """The driver's line, if there is one and it is well-formed."""
    _, found, line = stdout.rpartition(f"\n{marker}")
    if not found:
        return None
    try:
        answer = json.loads(line.strip())
        well_formed = (
            answer["status"] in STATUSES[:4]
            and isinstance(answer["output"], str)
            and isinstance(answer["seconds"], float)
            and math.isfinite(answer["seconds"])
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return answer if well_formed else None
