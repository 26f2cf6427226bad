"""The process that all sessions are forked from: a fresh interpreter that has imported the libraries once.

Three generations. The *launcher* is the host's child; it enters the outer namespaces, forks the zygote, and from then
on only watches: if the host dies, it kills the zygote. The *zygote* is process 1 of a PID namespace, so its death is
the death of everything below it. The *workers* are its children, one a session.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import glob
import importlib.util
import json
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from typing import Any

from . import cgroup, isolation, linux
from .procfs import Processes, exceeds, free_memory
from .tidy import remove_tree
from .wire import (
    COMMAND,
    EXIT,
    FAILED,
    FRAME,
    FROM_OUTSIDE,
    KILL,
    OUT_OF_MEMORY,
    OVER_DISK,
    REST,
    SPAWN,
    SPAWN_FAILED,
    WAKE,
)
from .worker import Worker


class Refusal(Exception):
    """Why no session can be started, in words for people."""


def _search_for(modules: list[str], paths: list[str]) -> None:
    """Adds those of the host's paths (as of PYTHONPATH, or the user's own) without which a module is missing."""
    missing = {name.partition(".")[0] for name in modules}
    missing = {name for name in missing if importlib.util.find_spec(name) is None}
    for path in paths:
        names = [f"{name}{end}" for name in missing for end in ("", ".py", ".*.so")]
        if path not in sys.path and any(glob.glob(name, root_dir=path) for name in names):  # noqa: PTH207
            sys.path.append(path)


def _warm_up_numpy() -> None:
    import numpy

    numpy.random.seed(0)  # numpy imports its generators on first use


def _warm_up_sympy() -> None:
    """What verification code calls most. The first call of each imports modules and fills caches, for all sessions."""
    import sympy

    x = sympy.Symbol("x")
    str(sympy.expand((x + 1) ** 3))
    sympy.simplify((x**2 - 1) / (x - 1))
    sympy.solve(x**2 - 4, x)
    sympy.integrate(sympy.sin(x) * x, x)
    sympy.N(sympy.sqrt(sympy.sympify("2")))


UNREADABLE = (
    "the sessions' user (id {user}) may not read the interpreter's library: {paths}. Let others read it and "
    "enter the directories above it (chmod o+rx), install Python and packages elsewhere, or allow namespaces"
)
DIRECTORIES = "genprm-sandbox-"  # how their names begin
STALE_SECONDS = 60.0  # after which one that nobody locks is no longer being made
FURTHER_FILES = 16  # that a process has open before it becomes a session's
WATCH_MS = 200  # between two looks at what sessions take
MACOS_OPEN_FILES = 10_240  # OPEN_MAX: its bound says infinity, and setrlimit refuses more (getrlimit(2) there)
WARM_UP = {"numpy": _warm_up_numpy, "sympy": _warm_up_sympy}


def main(control_fd: int) -> None:
    """Entry point of the fresh interpreter. `control_fd` is the socket to the host."""
    sys.path.pop(0)  # the way to this package, which is no program's business
    control = socket.socket(fileno=control_fd)
    directory, groups = "", []
    try:
        os.umask(0o077)
        sys.orig_argv = [""]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        config = json.loads(_read(control, FRAME.unpack(_read(control, FRAME.size))[0]))
        os.environ.clear()
        _check_host(config["limits"]["open_files"])
        _clear_away(config["temporary"])
        # Made here and not by the host, which may be killed before it could have told us what to tidy up.
        directory = tempfile.mkdtemp(prefix=DIRECTORIES, dir=config["temporary"])
        os.chmod(directory, 0o711)  # noqa: PTH101
        # Held for as long as this process or the zygote is there.
        fcntl.flock(os.open(directory, os.O_RDONLY), fcntl.LOCK_EX)
        outcomes: isolation.Outcomes = dict.fromkeys(isolation.NAMES, isolation.NO_LINUX)
        linux.yield_to_others()
        config["total"] = config["limits"]["total_memory"] or (free_memory() or 0) // 2  # 0: nobody knows
        if linux.SUPPORTED:  # before the namespaces, in which the machine's groups may no longer be ours to change
            isolation.attempt(
                outcomes, "cgroup", lambda: groups.append(cgroup.make(os.getpid(), total=config["total"]))
            )
        isolation.enter_outer(outcomes, directory)
        if outcomes["pid_namespace"] == "":
            pid = os.fork()
            if pid:
                _watch(control, config["host"], pid, directory, groups)
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        Zygote(control, config, directory, outcomes, groups[0] if groups else None).serve()
    except Refusal as error:
        _say(control, {"refusal": str(error)})
    except BaseException:
        _say(control, {"error": traceback.format_exc()})
    if directory:
        remove_tree(directory)
    for group in groups:
        cgroup.remove_all(group.path)
    os._exit(1)


def _check_host(open_files: int) -> None:
    """Refuses what would make every session fail, with what to change.

    Args:
        open_files: Descriptors that a session may have.
    """
    if linux.SUPPORTED and not os.path.exists("/proc/self/status"):  # noqa: PTH110
        raise Refusal("/proc is missing; mount it (mount -t proc proc /proc)")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < open_files + FURTHER_FILES:
        raise Refusal(
            f"a process may open only {hard} files, and the sandbox needs {open_files + FURTHER_FILES}; raise the "
            f"limit (ulimit -n), or lower Limits.open_files"
        )


def _clear_away(temporary: str) -> None:
    """Removes the directories of sandboxes that were killed with all that would have tidied up: nobody locks them."""
    for path in glob.glob(f"{glob.escape(temporary)}/{DIRECTORIES}*"):  # noqa: PTH207
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                status = os.fstat(descriptor)
                is_ours = status.st_uid in (os.geteuid(), isolation.NOBODY)
                if is_ours and time.time() - status.st_mtime > STALE_SECONDS:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove_tree(path)
            finally:
                os.close(descriptor)


def _watch(control: socket.socket, host: int, zygote: int, directory: str, groups: list[cgroup.Groups]) -> None:
    """The launcher's life: ends when host or zygote does, and takes the other's children along.

    The descriptor of the host's process is needed besides the socket, which a child that the host forked keeps open.
    """
    control.close()
    poll = select.poll()
    for pid in (host, zygote):
        with contextlib.suppress(ProcessLookupError):
            poll.register(os.pidfd_open(pid), select.POLLIN)
    if os.getppid() == host:
        poll.poll()
    with contextlib.suppress(ProcessLookupError):
        os.kill(zygote, signal.SIGKILL)
    os.waitpid(zygote, 0)
    remove_tree(directory)
    for group in groups:
        cgroup.remove_all(group.path)
    os._exit(0)


class Zygote:
    """Forks workers on command and says how each ended."""

    def __init__(
        self,
        control: socket.socket,
        config: dict[str, Any],
        directory: str,
        outcomes: isolation.Outcomes,
        groups: cgroup.Groups | None,
    ):
        self._control, self._config, self._directory = control, config, directory
        self._outcomes, self._groups = outcomes, groups
        self._workers: dict[int, tuple[int, int, str]] = {}  # process id -> session key, status descriptor, directory
        self._keys: dict[int, int] = {}  # session key -> process id
        self._killed: dict[int, int] = {}  # workers that are to end -> why
        self._numbers: dict[int, int] = {}  # their numbers in /proc
        self._held: dict[int, int] = {}  # bytes of memory that their sessions were last seen to hold
        self._resting: set[int] = set()  # workers that are stopped
        self._namespaced = outcomes["pid_namespace"] == ""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        soft = MACOS_OPEN_FILES if hard == resource.RLIM_INFINITY else hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))  # one for each session
        _search_for(config["imports"], config["search"])
        for name in config["imports"]:
            importlib.import_module(name)
        for name in config["imports"]:
            with contextlib.suppress(Exception):
                WARM_UP.get(name, lambda: None)()
        for module in ("numpy.random", "sympy.core.random"):
            if module in sys.modules:
                sys.modules[module].seed(config["seed"])
        isolation.library_paths(), isolation.mapped_users()  # worked out once, while everything can be read
        self._null = os.open("/dev/null", os.O_RDWR)
        self._proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY) if linux.SUPPORTED else None
        self._processes = Processes(self._proc) if self._proc is not None else None
        self._own_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY) if self._namespaced else -1
        isolation.hide_root(outcomes)
        limits = config["limits"]
        top = limits["open_files"] - 1
        self._worker = Worker(top, top - 1, limits, config["seed"], init=self._namespaced)
        capture = _memory_file(directory)
        self._worker.rehearse(capture)
        os.close(capture)
        os.dup2(self._null, 1)
        self._forks = 0
        self._highest = 0  # the highest descriptor that a session came with

    def serve(self) -> None:
        """Obeys the host's commands until the host is gone, ends all workers, and then ends this process."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        gc.collect()
        if self._proc is not None:
            linux.gather_memory(self._proc)
        gc.freeze()  # what is shared with the workers stays shared: the collector will not write to it
        self._outcomes = self._probe()
        group = str(self._groups.path) if self._groups else ""
        _say(self._control, {"protections": self._outcomes, "directory": self._directory, "group": group})
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(wake_read, select.POLLIN)
        watched = 0.0
        while True:
            is_watching = self._workers and (self._outcomes["hidden_root"] or self._outcomes["cgroup"])
            ready = dict(poll.poll(WATCH_MS if is_watching else None if self._namespaced else 1000))
            if wake_read in ready:
                os.read(wake_read, 4096)
            self._reap()
            if is_watching and time.monotonic() > watched + WATCH_MS / 1000:
                self._watch()
                watched = time.monotonic()
            if self._control.fileno() in ready and not self._command():
                break
            if not self._namespaced and os.getppid() != self._config["host"]:
                break  # the host is gone, but something holds its end of the socket
        for pid in list(self._workers):
            self._kill(pid)
        while self._workers:
            self._reap()
            time.sleep(0.002)
        remove_tree(self._directory)
        if self._groups and not self._namespaced:
            cgroup.remove_all(self._groups.path)
        os._exit(0)

    def _command(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._control, COMMAND.size, 2)
        if len(message) < COMMAND.size:
            return False
        what, key = COMMAND.unpack(message)
        if what == SPAWN and len(descriptors) == 2:
            self._spawn(key, *descriptors)
        elif what == SPAWN:  # none left for more; the host sees its ends closed
            for descriptor in descriptors:
                os.close(descriptor)
        elif key in self._keys:
            {KILL: self._kill, REST: self._rest, WAKE: self._wake}[what](self._keys[key])
        return True

    def _spawn(self, key: int, channel: int, status: int) -> None:
        self._highest = max(self._highest, channel, status)
        directory = ""
        try:
            if self._outcomes["hidden_root"]:
                directory = self._make_directory(key)
            self._group(key)
            pid = self._fork()
        except OSError:
            os.write(status, EXIT.pack(SPAWN_FAILED, 0.0, 0))
            os.close(status)
            os.close(channel)
            return
        if pid == 0:
            self._become_worker(key, channel, directory)
        os.close(channel)
        self._workers[pid] = (key, status, directory)
        self._keys[key] = pid

    def _make_directory(self, key: int) -> str:
        directory = f"{self._directory}/{key}"
        os.mkdir(directory, 0o700)  # noqa: PTH102
        if os.geteuid() == 0:
            with contextlib.suppress(OSError):  # in a user namespace without that user
                user = isolation.session_user(key)
                os.chown(directory, user, user)
        return directory

    def _fork(self) -> int:
        if self._namespaced:
            if self._forks:
                linux.setns(self._own_namespace, linux.CLONE_NEWPID)
            linux.unshare(linux.CLONE_NEWPID)
            self._forks += 1
        return os.fork()

    def _become_worker(self, key: int, channel: int, directory: str) -> None:
        """The rest of the child's life. Never returns."""
        try:
            worker = self._wall_in(key, channel, directory, dict(self._outcomes))
        except BaseException:
            reason = FAILED + traceback.format_exc().encode()[-8000:]
            for descriptor in (channel, self._config["limits"]["open_files"] - 1):  # wherever it is by now
                try:
                    os.write(descriptor, reason)
                    break
                except OSError:
                    continue
            os._exit(1)
        try:
            worker.serve()
        except BaseException:
            worker.report_failure(traceback.format_exc())
        finally:
            os._exit(1)

    def _wall_in(
        self, key: int, channel: int, directory: str, expected: isolation.Outcomes, probe: int = -1
    ) -> Worker:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        limits = self._config["limits"]
        outcomes = dict(expected)
        if groups := self._groups:
            isolation.attempt(outcomes, "cgroup", lambda: groups.join(key))
        top = limits["open_files"] - 1
        # Out of the way of the numbers that they get in the end: with many sessions open, either might be the other's.
        channel, capture = (_above(top, descriptor) for descriptor in (channel, _memory_file(directory)))
        isolation.enter_session(outcomes, limits, key, directory, self._proc)
        if probe >= 0:
            if unreadable := isolation.unreadable():
                raise Refusal(UNREADABLE.format(user=os.geteuid(), paths=", ".join(unreadable)))
            os.write(probe, json.dumps(outcomes).encode())
        elif lost := [f"{name} ({outcomes[name]})" for name in expected if not expected[name] and outcomes[name]]:
            raise OSError(f"protections that held at the start do not hold now: {', '.join(lost)}")
        # Standard streams, then the channel and the capture file at the top of the allowed range, nothing in between.
        os.dup2(channel, top, inheritable=False)
        os.dup2(capture, top - 1, inheritable=False)
        for descriptor in range(3):
            os.dup2(self._null, descriptor)
        os.closerange(3, top - 1)
        os.closerange(top + 1, max(self._highest, top) + 64)
        self._config.clear()  # the frames of this process lead to it, and it says where things are on the host
        return self._worker

    def _probe(self) -> isolation.Outcomes:
        """Walls in a throw-away process to learn what really holds."""
        read, write = os.pipe()
        directory = self._make_directory(0) if self._outcomes["hidden_root"] else ""
        if self._groups and not isolation.attempt(self._outcomes, "cgroup", lambda: self._group(0)):
            self._groups = None
        pid = self._fork()
        if pid == 0:
            try:
                self._wall_in(0, write, directory, self._outcomes, probe=write)
            except Refusal as error:
                os.write(write, str(error).encode())
            except BaseException:
                os.write(write, traceback.format_exc().encode())
            os._exit(0)
        os.close(write)
        with open(read, "rb") as reader:  # noqa: PTH123
            answer = reader.read()
        os.waitpid(pid, 0)
        if directory:
            remove_tree(directory)
        if self._groups:
            self._groups.remove(0)
        try:
            outcomes: isolation.Outcomes = json.loads(answer)
        except ValueError:
            raise Refusal(f"a session could not be set up: {answer.decode()}") from None
        if outcomes["cgroup"]:
            self._groups = None
        return outcomes

    def _group(self, key: int) -> None:
        if self._groups:
            self._groups.add(key, self._config["limits"]["memory"], self._config["limits"]["processes"])

    def _kill(self, pid: int, cause: int = 0) -> None:
        """Ends a worker and, where there is no PID namespace to do so, at least its process group."""
        self._killed.setdefault(pid, cause)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
        if not self._namespaced:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def _rest(self, pid: int) -> None:
        """Stops a worker until its next block, and ends the processes that the last one left."""
        os.kill(pid, signal.SIGSTOP)
        self._resting.add(pid)
        self._held.pop(pid, None)  # it may have taken more since, and is measured once more
        if self._processes is None:
            return
        if self._namespaced:
            if self._processes.below(self._number(pid)):
                self._kill(pid)  # they would have ended with their block, had the program not meddled with that
            return
        self._end_below(pid)

    def _end_below(self, pid: int) -> None:
        """Ends the processes below a worker that is stopped."""
        while self._processes is not None and (children := self._processes.below(pid)):
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.001)

    def _wake(self, pid: int) -> None:
        self._resting.discard(pid)
        os.kill(pid, signal.SIGCONT)

    def _number(self, pid: int) -> int:
        assert self._processes is not None
        if pid not in self._numbers:
            self._numbers[pid] = self._processes.number(pid)
        return self._numbers[pid]

    def _watch(self) -> None:
        """Ends sessions that take more than they may, where nothing else bounds a session as a whole."""
        limits = self._config["limits"]
        for pid, (_, _, directory) in self._workers.items():
            if pid in self._killed or (pid in self._resting and pid in self._held):
                continue
            if directory and exceeds(directory, limits["disk"], isolation.MOST_FILES):
                self._kill(pid, OVER_DISK)
            if self._outcomes["cgroup"] and self._processes is not None:
                number = self._number(pid)
                files = self._processes.files(
                    number, limits["open_files"] - 2, "" if self._outcomes["private_tmp"] else isolation.scratch()
                )
                self._held[pid] = files + sum(map(self._processes.memory, (number, *self._processes.below(number))))
                if self._held[pid] > limits["memory"] + cgroup.OVERHEAD:
                    self._kill(pid, OUT_OF_MEMORY)
        held = {pid: size for pid, size in self._held.items() if pid not in self._killed}
        while self._config["total"] and sum(held.values()) > self._config["total"]:
            largest = max(held, key=held.__getitem__)
            self._kill(largest, OUT_OF_MEMORY)
            del held[largest]

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid not in self._workers:
                continue
            if os.WIFSTOPPED(status):
                if pid not in self._resting:  # its block left children, which it cannot find itself
                    self._end_below(pid)
                    os.kill(pid, signal.SIGCONT)
                continue
            key, descriptor, directory = self._workers.pop(pid)
            del self._keys[key]
            if not self._namespaced:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            if directory and os.fork() == 0:  # it may hold any number of files, and others wait for us
                remove_tree(directory)
                os._exit(0)
            seconds, cause = usage.ru_utime + usage.ru_stime, self._killed.pop(pid, None)
            self._numbers.pop(pid, None)
            self._held.pop(pid, None)
            self._resting.discard(pid)
            if self._groups and self._groups.remove(key):
                cause = OUT_OF_MEMORY
            elif self._namespaced and status == signal.SIGKILL and cause is None:
                # Process 1 of a PID namespace cannot be killed from within, but by its limit on processor time.
                cause = 0 if seconds >= self._config["limits"]["cpu"] else FROM_OUTSIDE
            with contextlib.suppress(OSError):
                os.write(descriptor, EXIT.pack(status, seconds, cause or 0))
            os.close(descriptor)


def _above(number: int, descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, number + 1)


def _memory_file(directory: str) -> int:
    """A file without a name, for what the program prints. Appending, so it can be shortened while others write."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("stdout", 0)
    else:
        import tempfile

        descriptor, path = tempfile.mkstemp(dir=directory)
        os.unlink(path)  # noqa: PTH108
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_RDWR | os.O_APPEND)
    return descriptor


def _read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            os._exit(0)
        data += part
    return data


def _say(sock: socket.socket, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    with contextlib.suppress(OSError):
        sock.sendall(FRAME.pack(len(data)) + data)
