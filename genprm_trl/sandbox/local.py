"""The embedded sandbox: each session is an isolated process, forked from a warmed-up interpreter."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
import time
import weakref
from dataclasses import dataclass, replace
from typing import Self

from genprm_trl._loops import FairGate
from genprm_trl.errors import ConfigError, check_at_least
from genprm_trl.sandbox.base import ExecutionResult, Sandbox, Session
from genprm_trl.sandbox.guest.wire import OUT_OF_MEMORY, TIMEOUT_TEXT
from genprm_trl.sandbox.limits import Limits
from genprm_trl.sandbox.process import MEMORY_TEXT, Ended, SandboxError, Worker, Zygote
from genprm_trl.sandbox.remedies import WALL, missing_text
from genprm_trl.sandbox.spares import Spares

logger = logging.getLogger(__name__)

REQUIRED = ("separate_process", "limits", *WALL)
EXPECTED = (*WALL, "hidden_root", "seccomp")  # without one of these the log's line is a warning
_RISKS = {"no_network": "use your network", "files": "read and change your files"}
DESCRIPTOR_SECONDS = 120.0  # for which a session waits for free descriptors
PAUSES = (0.05, 0.2, None)  # seconds after each time that the sandbox loses a block
FORGOTTEN = "earlier blocks of the session are forgotten: they ended its process, or could not all run again"
REPLAYS = 20  # times the time-out of a block: what a session's replays may take together


@dataclass(frozen=True, slots=True)
class Protection:
    """Whether a layer of the wall holds on this machine, and if not, why."""

    name: str
    holds: bool
    reason: str = ""


class LocalSandbox(Sandbox):
    """Runs untrusted Python in processes of this machine.

    Usable from several event loops and threads at once. Nothing is started before the first session.

    Args:
        limits: Bounds of each session.
        max_concurrency: Blocks that run at once; the others wait their turn. Default: twice the cores.
        replay: Whether a new process first runs the session's earlier blocks again. This stops once the replays of a
            session have taken twenty times a block's time-out.
        required: Protections (names as in `protections`) without which it refuses to start. Default:
            `separate_process`, `limits`, `no_network` and `files`, on every system.
        imports: Modules imported once for all sessions.
        seed: Seeds `random` and numpy's global generator in each session; from 0 to 2**32 - 1.

    Raises:
        ConfigError: `max_concurrency` is below 1, or the seed is out of range. At the first use, and in `check`: a
            required protection does not hold or is unknown, or no session can ever start here.

    Example:
        >>> import asyncio
        >>> from genprm_trl.sandbox import LocalSandbox
        >>> async def main():
        ...     async with LocalSandbox() as sandbox, sandbox.session() as session:
        ...         await session.run("x = 6")
        ...         return (await session.run("print(x * 7)")).output
        >>> asyncio.run(main())
        '42'
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        max_concurrency: int | None = None,
        replay: bool = True,
        required: tuple[str, ...] = REQUIRED,
        imports: tuple[str, ...] = ("math", "sympy", "numpy"),
        seed: int = 0,
    ):
        check_at_least(1, max_concurrency=max_concurrency)
        if not 0 <= seed < 1 << 32:
            raise ConfigError(f"seed must be from 0 to 2**32 - 1, not {seed}.")
        self.limits = limits or Limits()
        self.replay = replay
        self._required, self._imports, self._seed = required, imports, seed
        self._gate = FairGate(max_concurrency or 2 * (os.cpu_count() or 1))
        self._lock = threading.Lock()
        self._zygote: Zygote | None = None
        self._spares = Spares(weakref.WeakMethod(self._start), max(2, os.cpu_count() or 1))
        self._closed = False
        self._logged = False

    def session(self, *, as_published: bool = False) -> LocalSession:
        """Opens a session. Starts its process in the background so that the first block does not wait."""
        session = LocalSession(self, as_published)
        self._spares.expect(session)
        return session

    def protections(self) -> dict[str, Protection]:
        """What holds on this machine, by name. Starts the sandbox if need be, which blocks about a second."""
        reasons = self._start().protections
        return {name: Protection(name, reason == "", reason) for name, reason in reasons.items()}

    async def check(self) -> None:
        """Starts it, and a session's process.

        Raises:
            ConfigError: No session can start: a required protection does not hold, or the machine refuses.
        """
        try:
            (await self._worker(LocalSession(self))).close()
        except SandboxError as error:
            raise ConfigError(f"The sandbox cannot start: {error}") from error

    async def close(self) -> None:
        """Ends every session. Safe to call twice."""
        await asyncio.to_thread(self._shut_down)

    def _shut_down(self) -> None:
        with self._lock:
            self._closed = True
            zygote, self._zygote = self._zygote, None
        self._spares.clear(closed=True)
        if zygote is not None:
            zygote.close()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._start)
        return self

    def _start(self) -> Zygote:
        """The running zygote; a new one if there is none, or if it died."""
        with self._lock:
            if self._closed:
                raise SandboxError("The sandbox is closed.")
            if self._zygote is not None and self._zygote.alive:
                return self._zygote
            if self._zygote is not None:
                self._zygote.close()
                self._spares.clear()
            zygote = Zygote(self.limits, self._imports, self._seed)
            self._check(zygote)
            weakref.finalize(self, zygote.close)
            self._zygote = zygote
            return zygote

    def _check(self, zygote: Zygote) -> None:
        reasons = zygote.protections
        unknown = [name for name in self._required if name not in reasons]
        missing = [name for name in self._required if reasons.get(name)]
        if unknown or missing:
            zygote.close()
        if unknown:
            raise ConfigError(f"Unknown protections required: {', '.join(unknown)}. Known: {', '.join(reasons)}.")
        if missing:
            text = missing_text(reasons, missing)
            raise ConfigError(f"The sandbox cannot give the protections required of it:\n{text}")
        if not self._logged:
            self._logged = True
            holding = ", ".join(n for n, reason in reasons.items() if not reason)
            lacking = "; ".join(f"{n} ({reason})" for n, reason in reasons.items() if reason)
            level = logging.WARNING if any(reasons[name] for name in EXPECTED) else logging.INFO
            logger.log(level, "Sandbox protections in force: %s. Not in force: %s.", holding, lacking or "none")
            if weak := [name for name in WALL if reasons[name]]:
                logger.warning(
                    "The sandbox is weak, and that was accepted: a program that a model writes can %s.",
                    " and ".join(_RISKS[name] for name in weak),
                )

    async def _worker(self, session: LocalSession) -> Worker:
        """A fresh worker for a session, ready to run. Raises SandboxError after a second failure."""
        for final in (False, True):
            zygote = self._zygote
            if zygote is None or not zygote.alive:
                zygote = await asyncio.to_thread(self._start)
            worker = self._spares.take(session) or zygote.spawn()
            try:
                await worker.ready()
                if not worker.idle:
                    raise SandboxError("A session's process ended before its first block.")
                return worker
            except SandboxError:
                worker.close()
                if final:
                    raise
                await asyncio.sleep(0.05)  # for the end of a zygote that just died to be seen
            except BaseException:
                worker.close()
                raise
        raise AssertionError("unreachable")


class _NotRepeatedError(SandboxError):
    """The machine lost a session's process, and a new one cannot get all that it knew."""

    def __init__(self) -> None:
        super().__init__("the session's process was lost, and its earlier blocks could not all run again")


class LocalSession(Session):
    """One namespace in its own process. Made by `LocalSandbox.session`."""

    def __init__(self, sandbox: LocalSandbox, as_published: bool = False):
        self._sandbox, self._as_published = sandbox, as_published
        self._turn = FairGate(1)
        self._worker: Worker | None = None
        self._history: list[str] = []  # blocks that a new process has to run again
        self._deaths = 0  # processes that ended by themselves between blocks, one after the other
        self._is_whole = True  # whether the history has all that the process knows
        self._must_repeat = False  # whether the process was lost by the machine and not by its program
        self._forgot = False  # whether names are gone with a process
        self._closed = False
        self._replayed, self._most_replayed = 0.0, REPLAYS * sandbox.limits.timeout  # seconds

    async def run(self, code: str) -> ExecutionResult:
        """Runs a block after those that wait before it. Never raises for anything the code does."""
        deadline = time.monotonic() + DESCRIPTOR_SECONDS
        async with self._turn:
            while True:
                if (result := await self._attempt(code, time.monotonic() < deadline)) is not None:
                    return result
                await asyncio.sleep(0.05)

    async def _attempt(self, code: str, may_wait: bool) -> ExecutionResult | None:
        """Runs a block in its turn.

        Returns:
            Its result. None if this process has no descriptors for the session's process, and `may_wait`: others end,
            and meanwhile those that have a process take their turns.
        """
        async with self._sandbox._gate:
            start, self._forgot = time.perf_counter(), False
            try:
                result = await self._answer(code)
            except SandboxError as error:
                self._lose()
                cause = error.__cause__
                if may_wait and isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
                    return None
                logger.warning("Sandbox failure: %s", error)
                self._remember(code)  # what it would have defined is there for the next block
                return ExecutionResult("", "sandbox_error", time.perf_counter() - start, str(error))
            except BaseException:
                self._lose()  # cancelled: what the process is doing is unknown
                raise
            if self._worker is not None:  # what a block had done before it raised is there for the next
                if result.status == "timeout":
                    self._is_whole = False
                else:
                    self._remember(code)
            if self._forgot:
                logger.warning("A session goes on without its earlier blocks. %s", FORGOTTEN)
                return replace(result, message="; ".join(filter(None, (result.message, FORGOTTEN))))
            return result

    async def _answer(self, code: str) -> ExecutionResult:
        """Runs a block, and again if its process died of what may be an earlier block's doing.

        A thread that was left behind, or a harness that was changed, ends the process under a later block. So the
        block gets a new process in which the earlier ones ran again, and then one without them. If it ends well there,
        they are to blame, and are forgotten. No more is tried once a block's time has passed.
        """
        start, limits = time.perf_counter(), self._sandbox.limits
        if self._worker is not None and not self._worker.idle:
            if await self._worker.was_lost():
                self._must_repeat = True
            else:
                self._deaths += 1
            self._lose()
            if self._deaths == 2 and self._history:
                self._history = []
                self._forget()
        elif self._worker is not None:
            self._deaths = 0
        is_alone = self._worker is None and not self._history
        first = await self._try(code)
        if first.status != "killed" or is_alone:
            return first
        kept = self._history
        for history in (kept, []) if kept else ([],):
            if time.perf_counter() - start > limits.timeout + limits.grace:
                break
            self._history = history
            try:
                result = await self._try(code)
            except BaseException:
                self._history = kept
                raise
            if result.status == "ok" or (self._history and result.status != "killed"):
                self._forgot = self._forgot or len(self._history) < len(kept)
                return result
            if history and not self._history:
                kept = []  # they could not run again
            self._lose()
        self._history = kept
        return first

    async def _try(self, code: str) -> ExecutionResult:
        """Runs a block in the session's process, or a new one; again if the sandbox loses it."""
        for pause in PAUSES:
            is_new = self._worker is None and not self._closed
            if is_new:
                self._worker = await self._sandbox._worker(self)
            try:
                if is_new:
                    await self._replay()
                if self._closed:
                    raise SandboxError("The session is closed.")
                return await self._run(code, self._sandbox.limits)
            except SandboxError as error:
                self._lose()
                self._must_repeat = True
                if pause is None or self._closed or self._sandbox._closed or isinstance(error, _NotRepeatedError):
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _run(self, code: str, limits: Limits) -> ExecutionResult:
        assert self._worker is not None
        start = time.perf_counter()
        try:
            answer = await self._worker.run(code, limits, self._as_published)
        except TimeoutError:
            self._lose()
            return ExecutionResult(TIMEOUT_TEXT, "timeout", time.perf_counter() - start, "hard time-out")
        except ConnectionError as error:
            self._lose()
            message = f"the program tampered with its session's channel: {error}"
            return ExecutionResult(_died(message), "killed", time.perf_counter() - start, message)
        if isinstance(answer, Ended):
            self._lose()
            if self._closed or self._sandbox._closed:  # it did not end by itself
                raise SandboxError("The session was closed while the block ran.")
            seconds, message = time.perf_counter() - start, answer.describe()
            if answer.is_loss:
                raise SandboxError(message)
            if answer.cause == OUT_OF_MEMORY:
                return ExecutionResult(MEMORY_TEXT, "memory", seconds, message)
            if answer.cpu_seconds >= limits.cpu:
                return ExecutionResult(TIMEOUT_TEXT, "timeout", seconds, "processor time used up")
            return ExecutionResult(_died(message), "killed", seconds, message)
        status, output, seconds = answer
        if status == "killed":
            self._lose()
            message = f"the program broke its session's process: {output}"
            return ExecutionResult(_died("the process broke"), "killed", seconds, message)
        return ExecutionResult(output, status, seconds)  # type: ignore[arg-type]

    async def _replay(self) -> None:
        """Runs the earlier blocks again in a new process.

        If one now ends the process, or they do not come to an end in the time of one block, the namespace is empty.
        The same holds for a session that has used up its time for replays. Otherwise slow blocks, each followed by one
        that ends the process, would take ever longer.

        If the machine lost the process, each may take the time of a block. An empty namespace would then make an
        error of the machine look like the program's.

        Raises:
            _NotRepeatedError: The machine lost the process, and they could not all run again.
        """
        limits, start = self._sandbox.limits, time.perf_counter()
        if not self._is_whole:
            if self._must_repeat and self._sandbox.replay:
                raise _NotRepeatedError
            self._forget()
        # After them an empty block: it does not come back from a process that goes on with what it has answered for.
        for code in (*self._history, "") if self._history else ():
            taken = time.perf_counter() - start
            left = limits.timeout if self._must_repeat else limits.timeout - taken
            left = min(left, self._most_replayed - self._replayed - taken)
            result = None
            if left > 0:
                result = await self._run(code, replace(limits, timeout=left if code else min(left, limits.grace)))
            if self._closed:
                break
            if result is None or self._worker is None or result.status == "timeout":
                self._lose()
                if self._must_repeat:
                    self._replayed += time.perf_counter() - start
                    raise _NotRepeatedError
                self._history = []
                self._forget()
                self._worker = await self._sandbox._worker(self)
                break
        self._must_repeat = False
        self._replayed += time.perf_counter() - start

    def _remember(self, code: str) -> None:
        if self._sandbox.replay:
            self._history.append(code)
        else:
            self._is_whole = False

    def _forget(self) -> None:
        """Notes that the next process knows no more than the history."""
        self._is_whole = self._forgot = True

    def _lose(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    async def close(self) -> None:
        """Ends the session's process, and with it a block that still runs. Safe to call twice."""
        self._closed = True
        self._sandbox._spares.forget(self)
        if self._worker is not None:
            self._worker.kill()
        async with self._turn:
            self._lose()


def _died(message: str) -> str:
    return f"Code execute Error: ChildProcessError: {message}"
