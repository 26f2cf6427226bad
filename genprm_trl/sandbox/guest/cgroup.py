"""A bound over all processes of a session together, and over all sessions, by control groups of version 2 or 1.

No existing group is changed. With version 2 the sandbox's group goes into the nearest one around its own process that
already hands the memory and process controllers on to its children and in which a group may be made; with version 1
into the process's own group of the memory controller. Everything goes through directory descriptors, because the
zygote no longer sees the file system when it makes a session's group.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path

from . import linux

OVERHEAD = 32 << 20  # bytes for page tables, pipes and the like, which a limit on address space does not count
NEEDED = {"memory", "pids"}


@dataclass(frozen=True)
class Version:
    """How a version of control groups names its files."""

    memory: str
    with_swap: str  # only there with swap accounting
    swap: int | None  # what goes there besides the bound on memory; None: the bound itself
    join: str
    kills: str


ONE = Version("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", None, "tasks", "memory.oom_control")
TWO = Version("memory.max", "memory.swap.max", 0, "cgroup.procs", "memory.events")


class Groups:
    """The sandbox's group, with one group a session in it.

    Args:
        parent: The group to make it in.
        name: The group's name.
        total: Bytes of memory that all sessions may hold together; 0 for no bound.
        version: Of control groups.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, parent: Path, name: str, total: int, version: Version):
        self.path, self._version = parent / name, version
        self.path.mkdir()
        try:
            self._directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            if version is TWO:
                linux.write_to("cgroup.subtree_control", "+memory +pids", self._directory)
            if total:
                self._bound(".", total)
        except OSError:
            self.path.rmdir()
            raise

    def _bound(self, group: str, memory: int) -> None:
        version = self._version
        linux.write_to(f"{group}/{version.memory}", str(memory), self._directory)
        with contextlib.suppress(OSError):
            swap = memory if version.swap is None else version.swap
            linux.write_to(f"{group}/{version.with_swap}", str(swap), self._directory)

    def add(self, key: int, memory: int, processes: int) -> None:
        """Makes a session's group."""
        os.mkdir(str(key), dir_fd=self._directory)
        self._bound(str(key), memory + OVERHEAD)
        if self._version is TWO:
            linux.write_to(f"{key}/pids.max", str(processes), self._directory)
            linux.write_to(f"{key}/memory.oom.group", "1", self._directory)

    def join(self, key: int) -> None:
        """Moves the calling process into a session's group."""
        linux.write_to(f"{key}/{self._version.join}", "0", self._directory)

    def remove(self, key: int) -> bool:
        """Removes the group of a session that has ended. Returns whether the kernel had killed in it for memory."""
        killed = False
        with contextlib.suppress(OSError, ValueError):
            events = dict(line.split() for line in _read(self._directory, f"{key}/{self._version.kills}").splitlines())
            killed = int(events.get("oom_kill", 0)) > 0
        with contextlib.suppress(OSError):
            os.rmdir(str(key), dir_fd=self._directory)
        return killed


def make(pid: int, root: Path = Path("/"), total: int = 0) -> Groups:
    """Makes the sandbox's group for the calling process.

    Args:
        pid: Makes the name unique.
        root: Root of the file system with /proc and the control groups.
        total: Bytes of memory that all sessions may hold together; 0 for no bound.

    Raises:
        OSError: There is no place for one.
    """
    name, mounts, own = f"genprm-sandbox-{pid}", _mounts(root), _own_groups(root)
    reason = OSError(errno.ENOENT, "no control groups of version 2, and none of version 1 for memory")
    if "" in mounts and "" in own:
        reason = OSError(errno.ENOENT, "no group here hands on the memory and pids controllers")
        top = mounts[""]
        place = top / own[""].lstrip("/")
        while place == top or top in place.parents:
            try:
                if set((place / "cgroup.subtree_control").read_text().split()) >= NEEDED:
                    return Groups(place, name, total, TWO)
            except OSError as error:
                reason = error
            place = place.parent
    if "memory" in mounts and "memory" in own:
        return Groups(mounts["memory"] / own["memory"].lstrip("/"), name, total, ONE)
    raise reason


def _mounts(root: Path) -> dict[str, Path]:
    """Where control groups are mounted: those of version 2 under "", those of version 1 by controller."""
    found: dict[str, Path] = {}
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        path = root / mount.split()[4].lstrip("/")
        if kind.startswith("cgroup2 "):
            found.setdefault("", path)
        elif kind.startswith("cgroup "):
            for name in kind.split()[-1].split(","):
                found.setdefault(name, path)
    return found


def _own_groups(root: Path) -> dict[str, str]:
    """The calling process's groups, by the same names."""
    lines = (root / "proc/self/cgroup").read_text().splitlines()
    fields = (line.split(":", 2) for line in lines)
    return {name: path for _, names, path in fields for name in names.split(",")}


def remove_all(path: Path) -> None:
    """Removes the sandbox's group and what is left in it, once its processes are gone."""
    with contextlib.suppress(OSError):
        for child in path.iterdir():
            if child.is_dir():
                with contextlib.suppress(OSError):
                    child.rmdir()
        path.rmdir()


def _read(directory: int, name: str) -> str:
    descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
    try:
        return os.read(descriptor, 4096).decode()
    finally:
        os.close(descriptor)
