"""A session's process: runs code blocks in one namespace and reports what each did.

This code shares a process with the programs it runs. A program can therefore break it, and break its own session with
it; it cannot thereby reach the host, which takes nothing from the channel but a bounded text and a status, and ends
the session at the first malformed byte.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import random
import resource
import signal
import sys
import threading
import time
import types
from typing import Any

from .driver import cut_middle
from .wire import READY, REQUEST, RESULT, STATUSES, TIMEOUT_TEXT

RETRY_INTERVAL = 0.1  # a program that swallows the time-out gets it again after this many seconds
# waitpid(2) passes over children that clone() made with another signal at their end than SIGCHLD.
ANY_CHILD = 0x40000000 if sys.platform == "linux" else 0
_waitpid, _kill = os.waitpid, os.kill  # as they are before a program replaces them
RESERVE = 64 << 20  # bytes of address space that the harness may add to report a MemoryError


class BlockTimeout(BaseException):
    """Raised inside a block when its time is up. Not an `Exception`, so a plain handler does not swallow it."""


class _Capture(io.RawIOBase):
    """Standard output: a file in memory, which subprocesses inherit as descriptor 1, kept near `limit` bytes."""

    def __init__(self, descriptor: int, limit: int):
        self._descriptor, self._limit, self._pending, self.dropped = descriptor, limit, 0, 0

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1

    def write(self, data: Any) -> int:
        size = os.write(self._descriptor, data)
        self._pending += size
        if self._pending > 4 * self._limit:
            self._compact()
        return size

    def _compact(self) -> None:
        head, tail, dropped = _ends(self._descriptor, self._limit)
        self.dropped += dropped
        os.ftruncate(self._descriptor, len(head))
        os.write(self._descriptor, tail)
        self._pending = 0

    def text(self) -> str:
        head, tail, dropped = _ends(self._descriptor, self._limit)
        total = self.dropped + dropped
        if not total:
            return (head + tail).decode("utf-8", "replace")
        return (
            _whole_end(head).decode("utf-8", "replace")
            + f"\n... [{total} bytes of output cut] ...\n"
            + _whole_start(tail).decode("utf-8", "replace")
        )


def _whole_end(head: bytes) -> bytes:
    """Drops a character that was cut at the end; stray bytes elsewhere become U+FFFD later."""
    for back in range(1, min(4, len(head)) + 1):
        first = head[-back]
        if first & 0xC0 != 0x80:
            length = 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
            return head[:-back] if length > back else head
    return head


def _whole_start(tail: bytes) -> bytes:
    """Drops what is left of a character that was cut at the start."""
    skip = 0
    while skip < min(3, len(tail)) and tail[skip] & 0xC0 == 0x80:
        skip += 1
    return tail[skip:]


def _ends(descriptor: int, limit: int) -> tuple[bytes, bytes, int]:
    """The first and last half of `limit` bytes, and how many lie between them. The boundary stays where it is."""
    size, half = os.fstat(descriptor).st_size, limit // 2
    head = os.pread(descriptor, half, 0)
    start = max(half, size - half)
    return head, os.pread(descriptor, half, start), max(0, start - half)


class Worker:
    """Serves one session.

    Args:
        channel: Descriptor of the socket to the host.
        capture: Descriptor of the in-memory file that stands for standard output.
        limits: The `Limits` of the sandbox as a dictionary.
        seed: Seeds `random`.
        init: Whether this process is the first of a PID namespace. Then every other process in it belongs to
            the program and dies with the block.
    """

    def __init__(self, channel: int, capture: int, limits: dict[str, Any], seed: int, init: bool):
        self._channel, self._capture_fd, self._limits, self._init = channel, capture, limits, init
        self._seed = seed
        self._pid = os.getpid()
        self._armed = self._fired = self._as_published = False
        self._nonce = bytes(16)
        self._stale: set[int] = set()
        self._streams: tuple[_Capture, _Writer, io.TextIOWrapper, io.TextIOWrapper] | None
        self._uninterruptible = {f.__code__ for f in (Worker._run, Worker._disarm, Worker._allow_reserve)}
        self._streams = self._make_streams()
        self._module = _new_main()
        self._hooks = sys.__displayhook__, sys.__excepthook__
        sys.argv = [""]

    def rehearse(self, capture: int) -> None:
        """Runs its own blocks in the process that sessions are forked from, with another file for their output.

        The interpreter adapts its code to how it is used and remembers where it found things. Done once here, sessions
        need not do so, each in copies of the pages where that is written.
        """
        final, self._capture_fd = self._capture_fd, capture
        for _ in range(16):
            for code in ("x = 2 + 2\nprint(x == 4)", "1/0"):
                self._streams = None
                self._run(code, 1.0)
                self._settle()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        self._capture_fd = final
        self._streams = self._make_streams()
        self._module = _new_main()

    def serve(self) -> None:
        """Runs blocks until the host hangs up. To be called in the session's process."""
        self._pid = os.getpid()
        random.seed(
            self._seed
        )  # Python seeds it again in every forked process; numpy's and sympy's come from the zygote
        os.register_at_fork(after_in_child=self._forked)
        # Looked up once: to replace them on this object, which a program finds through its frames, changes nothing.
        receive, run, reap, settle, send = self._receive, self._run, self._reap, self._settle, self._send
        send(READY)
        while True:
            nonce, seconds, as_published, size = REQUEST.unpack(receive(REQUEST.size))
            self._nonce = nonce
            if as_published and not self._as_published:
                self._become_published()
            code = receive(size).decode("utf-8", "surrogatepass")
            start = time.perf_counter()
            status, text = run(code, seconds)
            elapsed = time.perf_counter() - start
            reap()
            settle()
            data = text.encode("utf-8", "backslashreplace")
            send(RESULT.pack(nonce, STATUSES.index(status), elapsed, len(data)) + data)

    def _become_published(self) -> None:
        """Shows code what the published executor showed it: a namespace without a name, and text without an encoding.

        That executor also took a program's own `TimeoutError` for its own.
        """
        self._as_published = True
        for name in ("__name__", "__doc__", "__package__", "__loader__", "__spec__"):
            self._module.__dict__.pop(name, None)  # names are looked up in `builtins` then, which has its own
        _Writer.encoding = None  # type: ignore[assignment]  # sympy prints ASCII to such an output
        if symbols := sys.modules.get("sympy.printing.pretty.pretty_symbology"):
            symbols.pretty_use_unicode(False)  # it had asked when it was imported

    def report_failure(self, reason: str) -> None:
        """Says why `serve` came to an end that it should not have come to."""
        data = reason.encode("utf-8", "backslashreplace")[-4000:]
        with contextlib.suppress(OSError):
            self._send(RESULT.pack(self._nonce, STATUSES.index("killed"), 0.0, len(data)) + data)

    def _settle(self) -> None:
        """Notes the threads that the block leaves behind."""
        self._stale.clear()
        self._stale.update(sys._current_frames())
        self._stale.discard(threading.get_ident())

    def _run(self, code: str, seconds: float) -> tuple[str, str]:
        raw = self._open_streams()
        status, text = "ok", ""
        self._fired, self._armed = False, True
        signal.signal(signal.SIGALRM, self._alarm)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        try:
            self._allow_reserve(False)
            signal.setitimer(signal.ITIMER_REAL, seconds, RETRY_INTERVAL)
            status, text = self._execute(code)
            if status == "ok":
                with contextlib.suppress(Exception):  # the program may have closed or replaced it
                    sys.stdout.flush()
                if getattr(sys, "stdout", None) is not self._stdout:  # it may be deleted
                    with contextlib.suppress(Exception):
                        self._stdout.flush()
        except BlockTimeout:
            pass
        except BaseException as error:  # nothing that a program leaves behind may end the session's loop
            status, text = "error", f"Code execute Error: {type(error).__name__}: "
        finally:
            self._disarm()
            self._allow_reserve(True)
        if os.getpid() != self._pid:
            os._exit(0)  # a child that the program forked has come to the end of the block
        if self._fired or status != "ok":
            self._drop_output()
        if self._fired:
            return "timeout", TIMEOUT_TEXT
        if status != "ok":
            return status, cut_middle(text, self._limits["output"])
        try:
            return "ok", raw.text().strip()
        except OSError as error:  # the program closed our descriptors
            return "error", f"Code execute Error: {type(error).__name__}: {error}"

    def _execute(self, code: str) -> tuple[str, str]:
        try:
            # "<string>" is the file name that exec() of a text gives, which error messages of the wire format contain.
            exec(compile(code, "<string>", "exec", dont_inherit=True), self._module.__dict__)
            return "ok", ""
        except BlockTimeout:
            raise
        except SystemExit as error:
            if error.code is None or error.code == 0:
                return "ok", ""
            return "error", _describe(error)
        except MemoryError as error:
            self._allow_reserve(True)  # the names of the program still fill the rest
            return "memory", _describe(error)
        except OSError as error:
            text = _describe(error)
            if self._as_published and isinstance(error, TimeoutError):
                text = "Code execute time out: " + text.partition(": ")[2].partition(": ")[2]
            return ("memory" if error.errno == errno.ENOMEM else "error"), text
        except BaseException as error:
            return "error", _describe(error)

    def _alarm(self, signum: int, frame: Any) -> None:
        if self._armed:
            self._fired = True
            # Never between the harness's own lines, where nobody would catch it: the timer comes again.
            if frame is None or frame.f_code not in self._uninterruptible:
                raise BlockTimeout

    def _disarm(self) -> None:
        self._armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _allow_reserve(self, allowed: bool) -> None:
        """Moves the memory limit: with the reserve for the harness's own work, without it for a program's."""
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        if hard != resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_AS, (hard if allowed else hard - RESERVE, hard))

    def _drop_output(self) -> None:
        """Empties the buffers of a block whose output is not reported, or the next one would be said to print it."""
        for stream in (self._stdout, getattr(sys, "stdout", None)):
            with contextlib.suppress(BaseException):  # whatever the program has made of them
                io.TextIOWrapper.flush(stream)  # type: ignore[arg-type]

    def _open_streams(self) -> _Capture:
        """Standard streams as new for each block, whatever the last one closed or replaced."""
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 2)
        if null > 2:
            os.close(null)
        os.dup2(self._capture_fd, 1)
        raw, self._stdout, stdin, stderr = self._streams or self._make_streams()
        self._streams = None
        sys.stdout = sys.__stdout__ = self._stdout  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = stderr  # type: ignore[misc]
        sys.stdin = sys.__stdin__ = stdin  # type: ignore[misc]
        os.ftruncate(self._capture_fd, 0)  # after the last block's streams are gone: they write what they still hold
        sys.displayhook, sys.excepthook = self._hooks
        return raw

    def _make_streams(self) -> tuple[_Capture, _Writer, io.TextIOWrapper, io.TextIOWrapper]:
        """What standard output is collected in, and objects for standard output, input and error."""
        raw = _Capture(self._capture_fd, self._limits["output"])
        stdin = io.BufferedReader(io.FileIO(0, closefd=False))
        stderr = io.BufferedWriter(io.FileIO(2, "w", closefd=False))
        errors = io.TextIOWrapper(stderr, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        return raw, _Writer(raw, self._stale), io.TextIOWrapper(stdin, encoding="utf-8"), errors

    def _reap(self) -> None:
        """Ends the processes that the block left behind. They might answer for the next one.

        Without a PID namespace this process cannot find them all. It stops then, and the zygote ends them before it
        lets it go on.
        """
        is_done = False
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, _ = _waitpid(-1, os.WNOHANG | ANY_CHILD)
                if pid == 0 and self._init:
                    _kill(-1, signal.SIGKILL)
                    _waitpid(-1, ANY_CHILD)
                elif pid == 0:
                    if is_done or not ANY_CHILD:
                        return
                    _kill(self._pid, signal.SIGSTOP)
                    is_done = True

    def _forked(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._channel)

    def _receive(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = os.read(self._channel, min(size - len(parts), 1 << 20))
            if not part:
                os._exit(0)
            parts += part
        return bytes(parts)

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._channel, view) :]


def _new_main() -> types.ModuleType:
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    return module


class _Writer(io.TextIOWrapper):
    """`sys.stdout`. Threads that earlier blocks left behind (`stale`, by identifier) write into the void."""

    def __init__(self, raw: _Capture, stale: set[int]):
        super().__init__(io.BufferedWriter(raw, 1 << 16), encoding="utf-8", errors="backslashreplace")
        self._stale = stale

    def write(self, text: str) -> int:
        if threading.get_ident() in self._stale:
            return len(text)
        return super().write(text)


def _describe(error: BaseException) -> str:
    try:
        return f"Code execute Error: {type(error).__name__}: {error}"
    except BlockTimeout:
        raise
    except BaseException:  # __str__ is the program's own code
        return f"Code execute Error: {type(error).__name__}: "
