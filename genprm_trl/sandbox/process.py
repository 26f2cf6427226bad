"""The host's side of the sandbox: handles on the zygote and on its workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from genprm_trl.errors import ConfigError, GenPRMError
from genprm_trl.sandbox.guest import cgroup, wire
from genprm_trl.sandbox.guest.tidy import remove_tree
from genprm_trl.sandbox.limits import Limits
from genprm_trl.sandbox.remedies import SERVER

STARTUP_SECONDS = 60.0  # for a zygote to import its libraries, on the slowest of machines
SPAWN_SECONDS = 30.0
REST_SECONDS = 0.05  # between a block and its session's rest
LAST_TRIES = 100  # to remove a control group, whose processes may still be ending
LAST_SECONDS = 0.1  # for a process to end once its channel is closed
LONGEST_CODE = 1 << 30  # bytes; the length has 32 bits on the wire
MEMORY_TEXT = "Code execute Error: MemoryError: "


class SandboxError(GenPRMError):
    """The sandbox itself failed; nothing is said about the program."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a worker's process ended.

    Attributes:
        wait_status: The status that `os.waitpid` gave; None if it is unknown.
        cpu_seconds: Processor time it used.
        cause: Why it was killed, one of the causes in `guest.wire`; 0 if it was not, or by its program.
    """

    wait_status: int | None
    cpu_seconds: float = 0.0
    cause: int = 0

    @property
    def is_loss(self) -> bool:
        """Whether the program has no part in it: somebody else killed the process, neither it nor the sandbox."""
        return self.cause == wire.FROM_OUTSIDE or self.wait_status is None

    def describe(self) -> str:
        """Returns a clause for error messages that says what ended the process."""
        if self.wait_status is None:
            return "the process that starts sessions is gone"
        if self.wait_status == wire.SPAWN_FAILED:
            return "the system refused a new process"
        if self.cause == wire.OVER_DISK:
            return "the program's files took more than its directory may hold"
        if self.cause == wire.FROM_OUTSIDE:
            return "the process was killed from outside the sandbox; the machine may be out of memory"
        if os.WIFSIGNALED(self.wait_status):
            number = os.WTERMSIG(self.wait_status)
            with contextlib.suppress(ValueError):
                return f"the process was ended by {signal.Signals(number).name}"
            return f"the process was ended by signal {number}"
        return f"the process exited with code {os.waitstatus_to_exitcode(self.wait_status)}"


class Zygote:
    """The process that forks workers. Making one blocks until it runs: call it in a thread.

    Attributes:
        protections: Name of a protection -> "" where it holds, otherwise why not.
    """

    def __init__(self, limits: Limits, imports: tuple[str, ...], seed: int):
        self._lock = threading.RLock()  # a handle may be collected, and closed, in a thread that holds it
        self._keys = count(1)
        # When each worker came to wait for its next block; None once it is stopped.
        self._waiting: dict[int, float | None] = {}
        self._is_waiting, self._is_closed = threading.Event(), False
        self._pid = os.getpid()
        self.directory = ""  # of the sessions, where they cannot have one that only they see
        self._group = ""  # the directory of the control group
        try:
            temporary = tempfile.gettempdir()
        except FileNotFoundError as error:
            needed = (
                "The sandbox needs a directory for temporary files. Set TMPDIR to one, and allow files (ulimit -f)"
            )
            raise ConfigError(f"{needed}: {error}") from error
        if not Path(os.devnull).exists():
            raise ConfigError(f"The sandbox needs {os.devnull}, which is missing here. Mount /dev in the container.")
        try:
            self._control, theirs = socket.socketpair()
        except OSError as error:
            raise SandboxError(f"The sandbox could not be started: {error}.") from error
        guest = Path(__file__).parent
        program = (
            f"import sys; sys.path.insert(0, {str(guest)!r}); from guest import zygote; zygote.main({theirs.fileno()})"
        )
        environment = {
            "PYTHONHASHSEED": "0",
            "LD_BIND_NOW": "1",  # or every session would look functions up that the zygote had not called
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        }
        try:
            # -s and -P with an environment of our own isolate as -I does, which would ignore PYTHONHASHSEED.
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-B", "-X", "utf8", "-c", program],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # Out of reach of the terminal's signals, but not in a new session: Linux schedules sessions as
                # groups (sched_autogroup_enabled), and beside an engine that polls, this one waited for its turn.
                process_group=0,
            )
        except OSError as error:
            self._control.close()
            raise SandboxError(f"The sandbox's interpreter could not be started: {error}.") from error
        finally:
            theirs.close()
        config = {
            "host": os.getpid(),
            "limits": asdict(limits),
            "imports": imports,
            "seed": seed,
            "search": [path for path in sys.path if Path(path).is_absolute()],
            "temporary": temporary,
        }
        try:
            self._control.settimeout(STARTUP_SECONDS)
            data = json.dumps(config).encode()
            self._control.sendall(wire.FRAME.pack(len(data)) + data)
            answer = json.loads(self._read(wire.FRAME.unpack(self._read(wire.FRAME.size))[0]))
        except (OSError, ValueError) as error:
            self.close()
            raise SandboxError(f"The sandbox's interpreter did not start: {error}") from error
        if "refusal" in answer:
            self.close()
            raise ConfigError(f"The sandbox cannot start: {answer['refusal']}; or {SERVER}")
        if "error" in answer:
            self.close()
            raise SandboxError(f"The sandbox's interpreter did not start:\n{answer['error']}")
        self._control.settimeout(SPAWN_SECONDS)
        threading.Thread(target=self._stop_waiting, name="genprm-sandbox-rest", daemon=True).start()
        self.protections: dict[str, str] = answer["protections"]
        self.directory, self._group = answer["directory"], answer["group"]

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._control.recv(size - len(data))
            if not part:
                raise OSError("it ended without a word")
            data += part
        return data

    @property
    def alive(self) -> bool:
        """Whether it runs and is this process's own (a forked child has its parent's object, not its process)."""
        return self._pid == os.getpid() and self._process.poll() is None

    def spawn(self) -> Worker:
        """Asks for a worker. Returns at once; `Worker.ready` waits for it.

        Raises:
            SandboxError: This process has no descriptors left (each open session takes two).
        """
        try:
            channel, channel_end = socket.socketpair()
        except OSError as error:
            raise SandboxError(f"No session could be started: {error}.") from error
        try:
            status, status_end = socket.socketpair()
        except OSError as error:
            channel.close()
            channel_end.close()
            raise SandboxError(f"No session could be started: {error}.") from error
        channel.setblocking(False)
        status.setblocking(False)
        key = next(self._keys)
        try:
            with self._lock:
                descriptors = [channel_end.fileno(), status_end.fileno()]
                socket.send_fds(self._control, [wire.COMMAND.pack(wire.SPAWN, key)], descriptors)
        except OSError:
            pass  # it is gone: the worker's status socket reaches its end, which says so
        finally:
            channel_end.close()
            status_end.close()
        return Worker(self, key, channel, status)

    def kill(self, key: int) -> None:
        """Asks the zygote to kill a worker, and does nothing if the zygote is gone or is a parent process's.

        Args:
            key: The worker's key.
        """
        with self._lock:
            self._waiting.pop(key, None)
            self._tell(wire.KILL, key)

    def rest(self, key: int) -> None:
        """Has a worker stopped soon, unless its next block comes before. What a program left behind stands still then.

        Args:
            key: The worker's key.
        """
        with self._lock:
            self._waiting[key] = time.monotonic()
        if not self._is_waiting.is_set():
            self._is_waiting.set()

    def wake(self, key: int) -> None:
        """Lets a worker go on.

        Args:
            key: The worker's key.
        """
        with self._lock:
            if self._waiting.pop(key, 0.0) is None:
                self._tell(wire.WAKE, key)

    def _stop_waiting(self) -> None:
        while self._is_waiting.wait():
            time.sleep(REST_SECONDS)
            now = time.monotonic()
            with self._lock:
                if self._is_closed:
                    return
                self._is_waiting.clear()
                for key, since in self._waiting.items():
                    if since is not None and now - since < REST_SECONDS:
                        self._is_waiting.set()
                    elif since is not None:
                        self._tell(wire.REST, key)
                        self._waiting[key] = None

    def _tell(self, what: bytes, key: int) -> None:
        """Sends a command. To be called with the lock held."""
        if self._pid == os.getpid():  # or it is a forked child's copy of the handle; the session is its parent's
            with contextlib.suppress(OSError):
                self._control.send(wire.COMMAND.pack(what, key))

    def close(self) -> None:
        """Ends the zygote and with it every worker. Blocks for a moment."""
        with self._lock:  # or a command on its way might go out on a descriptor that has become another's
            self._control.close()
            self._is_closed = True
        self._is_waiting.set()
        if self._pid != os.getpid():
            return
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self.directory:  # what follows is for a launcher that was killed before it could tidy up
            remove_tree(self.directory)
        for _ in range(LAST_TRIES):
            if not self._group or not Path(self._group).exists():
                break
            cgroup.remove_all(Path(self._group))
            time.sleep(0.01)


class Worker:
    """A session's process."""

    def __init__(self, zygote: Zygote, key: int, channel: socket.socket, status: socket.socket):
        self._zygote, self._key, self._channel, self._status = zygote, key, channel, status
        self._is_ready = False

    async def ready(self) -> None:
        """Waits until every protection is up.

        Raises:
            SandboxError: The process ended before.
        """
        if self._is_ready:
            return
        try:
            async with asyncio.timeout(SPAWN_SECONDS):
                data = await self._receive(1)
                if data == wire.FAILED:
                    reason = await asyncio.get_running_loop().sock_recv(self._channel, 1 << 14)
                    raise SandboxError(f"A session's process could not be set up: {reason.decode(errors='replace')}")
        except TimeoutError:
            raise SandboxError(f"A session's process was not ready after {SPAWN_SECONDS:.0f} s.") from None
        if isinstance(data, Ended):
            raise SandboxError(f"A session's process could not be started: {data.describe()}.")
        self._is_ready = True

    @property
    def idle(self) -> bool:
        """Whether it waits for a request: it has neither ended nor said a word since its last result."""
        try:
            self._channel.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    async def was_lost(self) -> bool:
        """Whether the process, which is not idle, was ended by neither its program nor the sandbox."""
        with contextlib.suppress(OSError):
            if self._channel.recv(1, socket.MSG_PEEK):
                return False  # it says something unasked
        return (await self._ended()).is_loss

    async def run(self, code: str, limits: Limits, as_published: bool = False) -> tuple[str, str, float] | Ended:
        """Runs a block.

        Args:
            code: The block.
            limits: Its bounds.
            as_published: What it sees; see `Sandbox.session`. The same for all blocks of a process.

        Returns:
            Status, output and seconds; or how the process ended.

        Raises:
            TimeoutError: The process did not come back within time-out and grace.
            ConnectionError: What came back is not a result: the program tampered with the channel.
        """
        with contextlib.suppress(BlockingIOError):
            if self._channel.recv(1, socket.MSG_PEEK):
                raise ConnectionError("bytes before the request")
            return await self._ended()
        self._zygote.wake(self._key)
        try:
            return await self._exchange(code, limits, as_published)
        finally:
            self._zygote.rest(self._key)

    async def _exchange(self, code: str, limits: Limits, as_published: bool) -> tuple[str, str, float] | Ended:
        nonce = secrets.token_bytes(16)
        data = code.encode("utf-8", "surrogatepass")
        if len(data) > min(limits.memory, LONGEST_CODE):
            return "memory", MEMORY_TEXT, 0.0
        request = wire.REQUEST.pack(nonce, limits.timeout, as_published, len(data)) + data
        async with asyncio.timeout(limits.timeout + limits.grace):
            try:
                await asyncio.get_running_loop().sock_sendall(self._channel, request)
            except OSError:
                return await self._ended()
            header = await self._receive(wire.RESULT.size)
            if isinstance(header, Ended):
                return header
            echoed, status, seconds, size = wire.RESULT.unpack(header)
            # A cut text has twice half the limit and the mark; backslash escapes can make it longer.
            well_formed = echoed == nonce and status < len(wire.STATUSES) and size <= 12 * limits.output + 4096
            if not well_formed or not 0 <= seconds <= limits.timeout + limits.grace + 1:
                raise ConnectionError("a malformed result")
            text = await self._receive(size)
            if isinstance(text, Ended):
                return text
        return wire.STATUSES[status], text.decode("utf-8", "replace"), seconds

    async def _receive(self, size: int) -> bytes | Ended:
        parts = bytearray()
        while len(parts) < size:
            try:
                part = self._channel.recv(min(size - len(parts), 1 << 20))
            except BlockingIOError:
                if await _first_readable(self._channel, self._status) is self._status:
                    try:  # a last result may have come just before the end
                        part = self._channel.recv(min(size - len(parts), 1 << 20))
                    except OSError:
                        return await self._ended()
                else:
                    continue
            except OSError:
                return await self._ended()
            if not part:
                return await self._ended()
            parts += part
        return bytes(parts)

    async def _ended(self) -> Ended:
        """What the zygote says about the end. A worker that has only closed its channel is ended first."""
        loop, data, part = asyncio.get_running_loop(), b"", b"x"
        for seconds in (LAST_SECONDS, SPAWN_SECONDS):
            try:
                async with asyncio.timeout(seconds):
                    while part and len(data) < wire.EXIT.size:
                        data += (part := await loop.sock_recv(self._status, wire.EXIT.size - len(data)))
                break
            except TimeoutError:
                self._zygote.kill(self._key)
            except OSError:
                break
        return Ended(*wire.EXIT.unpack(data)) if len(data) == wire.EXIT.size else Ended(None)

    def kill(self) -> None:
        """Ends the process without waiting for its end. A caller that waits for its answer gets an error."""
        self._zygote.kill(self._key)

    def close(self) -> None:
        """Ends the process, if it still runs, and frees the handle. Does not wait. Safe to call twice."""
        if self._channel.fileno() >= 0:
            self.kill()
            self._channel.close()
            self._status.close()


async def _first_readable(first: socket.socket, second: socket.socket) -> socket.socket:
    loop = asyncio.get_running_loop()
    turn: asyncio.Future[Any] = loop.create_future()

    def wake(sock: socket.socket) -> None:
        if not turn.done():
            turn.set_result(sock)

    for sock in (first, second):
        loop.add_reader(sock, wake, sock)
    try:
        result: socket.socket = await turn
        return result
    finally:
        for sock in (first, second):
            loop.remove_reader(sock)
