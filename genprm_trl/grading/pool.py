"""The processes that compare answers.

Comparing answers means handing text that a model wrote to a computer algebra system. `9^{9^{9^9}}` keeps one busy in C
code for ever, where neither a signal handler nor a thread can stop it. So comparisons run in separate processes
(`grading.worker`), which are killed when their time is up and replaced.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genprm_trl.errors import GenPRMError

_START_SECONDS = 120.0
# Computer algebra caches fill up; a fresh process now and then keeps the memory bounded.
_TASKS_PER_WORKER = 2_000


class WorkerDied(Exception):
    """The process ended without an answer."""


class Worker:
    """A process that compares answers, one at a time."""

    def __init__(self) -> None:
        # The answers are untrusted: the process sees neither our environment (tokens) nor our directory.
        names = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV")
        environment = {name: os.environ[name] for name in names if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join([*filter(None, sys.path), str(Path(__file__).parents[2])])
        environment["PYTHONHASHSEED"] = "0"  # the order of terms, and so the time taken, does not vary
        self.tasks = 0
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process that writes it)
        # A separate program instead of `multiprocessing`, which would run the caller's main module again, or fork
        # a process full of threads and CUDA state. -P keeps our modules' names off the top level.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env=environment,
            cwd="/",
            start_new_session=True,  # an interrupt at the terminal is ours to handle
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._received = b""
        self._is_ready = False

    def wait(self) -> None:
        """Waits until the process has started.

        Raises:
            GenPRMError: It does not start.
        """
        if self._is_ready:
            return
        try:
            self._receive(_START_SECONDS)
        except (TimeoutError, WorkerDied):
            self.kill()
            self._errors.seek(0)
            last = self._errors.read()[-2_000:].decode("utf-8", "replace").strip().splitlines() or ["no message"]
            raise GenPRMError(f"the process that compares answers did not start: {last[-1]}") from None
        self._is_ready = True

    def ask(self, request: dict[str, Any], timeout: float, when_slow: Callable[[], None]) -> dict[str, Any]:
        """The answer to a request, within so many seconds.

        Args:
            request: The request.
            timeout: The seconds.
            when_slow: Called when half of them have passed.

        Raises:
            TimeoutError: There is none in time. The process is still at it, so kill it.
            WorkerDied: The process has ended.
        """
        self.tasks += 1
        try:
            os.write(self._in, json.dumps(request).encode() + b"\n")
        except OSError:
            raise WorkerDied from None
        deadline = time.monotonic() + timeout
        with contextlib.suppress(TimeoutError):
            return self._receive(timeout / 2)
        when_slow()
        return self._receive(deadline - time.monotonic())

    def _receive(self, timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            while b"\n" not in self._received:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise TimeoutError
                part = os.read(self._out, 65_536)
                if not part:
                    raise WorkerDied
                self._received += part
        line, _, self._received = self._received.partition(b"\n")
        try:
            reply: dict[str, Any] = json.loads(line)
        except ValueError:
            raise WorkerDied from None
        return reply

    def kill(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self.forget()
        self._process.wait()

    def forget(self) -> None:
        """Closes our ends of the pipes."""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


class Pool:
    """Keeps workers for later: as many as were needed at once, up to a bound."""

    def __init__(self) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.size = min(4, cores)
        self._slots = threading.BoundedSemaphore(self.size)
        self._lock = threading.Lock()
        self._idle: list[Worker] = []

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The answer of a worker, within so many seconds once one is free.

        Raises:
            TimeoutError: There is none in time.
            WorkerDied: The worker has ended.
            GenPRMError: No worker can be started.
        """
        with self._slots:
            worker = self._take() or Worker()
            worker.wait()
            try:
                reply = worker.ask(request, timeout, self._start_another)
            except BaseException:  # an interrupt too leaves an answer under way that nobody will read
                worker.kill()
                raise
            if reply["status"] == "error" or worker.tasks >= _TASKS_PER_WORKER:
                worker.kill()
            else:
                with self._lock:
                    self._idle.append(worker)
                    spare = self._idle.pop(0) if len(self._idle) > self.size else None
                if spare is not None:
                    spare.kill()
            return reply

    def _start_another(self) -> None:
        """Starts the successor of a worker that may soon be killed, so that nobody waits for it then."""
        with self._lock:
            if not self._idle:
                self._idle.append(Worker())

    def _take(self) -> Worker | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                worker = self._idle.pop()
            if worker._process.poll() is None:
                return worker
            worker.forget()

    def close(self) -> None:
        """Ends the workers that are idle."""
        with self._lock:
            workers, self._idle = self._idle, []
        for worker in workers:
            worker.kill()

    def forget(self) -> None:
        """Closes this process's ends of the pipes, and leaves the workers to the process that started them."""
        for worker in self._idle:
            worker.forget()


_pool = Pool()


def _after_fork() -> None:
    """The workers are the parent's: two processes must not talk over one pipe."""
    global _pool
    _pool.forget()
    _pool = Pool()


atexit.register(lambda: _pool.close())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def workers() -> Pool:
    """The pool of this process."""
    return _pool
