"""What the zygote sees of its sessions from outside, in a procfs that was opened before the root was hidden."""

from __future__ import annotations

import contextlib
import os
import resource
import stat
from pathlib import Path

PAGE = resource.getpagesize()


class Processes:
    """The processes below a worker.

    Args:
        proc: Descriptor of a procfs. It may be the host's, in which a worker has another number than for the zygote.
    """

    def __init__(self, proc: int):
        self._proc = proc
        self._own = self._resident("self")

    def number(self, pid: int) -> int:
        """The number under which the procfs knows a child of this process."""
        descriptor = os.pidfd_open(pid)
        try:
            lines = self._read(f"self/fdinfo/{descriptor}").splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))
        finally:
            os.close(descriptor)

    def below(self, number: int) -> list[int]:
        """The processes below one, at any depth, without those that have ended."""
        found: list[int] = []
        todo = [number]
        while todo:
            children = self._children(todo.pop())
            found += children
            todo += children
        return found

    def memory(self, number: int) -> int:
        """Bytes that a process has come to hold since it was forked.

        Pages of the interpreter that it has changed since are not among them: the kernel counts those as held before.
        """
        return max(0, self._resident(str(number)) - self._own)

    def files(self, number: int, output: int, directory: str) -> int:
        """Bytes of memory that a session's files take.

        Args:
            number: Its process.
            output: Descriptor of the file in memory that has its standard output.
            directory: Its temporary directory, as it sees it, if that lies in memory; otherwise empty.
        """
        size = 0
        with contextlib.suppress(OSError):
            size += 512 * os.stat(f"{number}/fd/{output}", dir_fd=self._proc).st_blocks
        with contextlib.suppress(OSError):
            if directory:
                opened = os.open(f"{number}/root{directory}", os.O_PATH | os.O_DIRECTORY, dir_fd=self._proc)
                try:
                    held = os.statvfs(opened)
                finally:
                    os.close(opened)
                size += (held.f_blocks - held.f_bfree) * held.f_frsize
        return size

    def _resident(self, number: str) -> int:
        try:
            return int(self._read(f"{number}/statm").split()[1]) * PAGE
        except OSError:
            return 0

    def _children(self, number: int) -> list[int]:
        found: list[int] = []
        with contextlib.suppress(OSError):
            descriptor = os.open(f"{number}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._proc)
            try:
                threads = os.listdir(descriptor)  # noqa: PTH208
            finally:
                os.close(descriptor)
            for thread in threads:
                with contextlib.suppress(OSError):
                    found += map(int, self._read(f"{number}/task/{thread}/children").split())
        return [child for child in found if self._is_alive(child)]

    def _is_alive(self, number: int) -> bool:
        try:
            return self._read(f"{number}/stat").rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    def _read(self, path: str) -> str:
        descriptor = os.open(path, os.O_RDONLY, dir_fd=self._proc)
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
            return file.read()


def exceeds(path: str, size: int, entries: int) -> bool:
    """Whether a directory holds more than so many bytes or entries, or something that cannot be looked into."""
    todo = [os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)]
    try:
        while todo:
            directory = todo.pop()
            try:
                for name in os.listdir(directory):  # noqa: PTH208
                    with contextlib.suppress(FileNotFoundError):  # it is gone by now
                        status = os.lstat(name, dir_fd=directory)
                        size, entries = size - 512 * status.st_blocks, entries - 1
                        if size < 0 or entries < 0:
                            return True
                        if stat.S_ISDIR(status.st_mode):
                            todo.append(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory))
            finally:
                os.close(directory)
    except OSError:
        return True
    finally:
        for directory in todo:
            os.close(directory)
    return False


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that are free on the machine; None if it does not say so."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    return None
