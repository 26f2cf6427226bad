"""A bound over all processes of a session together, by control groups (version 2), where one can be made.

No existing group is changed: the sandbox's group goes into the nearest one around its own process that already hands
the memory and process controllers on to its children and in which a group may be made. Everything goes through
directory descriptors, because the zygote no longer sees the file system when it makes a session's group.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

OVERHEAD = 32 << 20  # bytes for page tables, pipes and the like, which a limit on address space does not count
NEEDED = {"memory", "pids"}


class Groups:
    """The sandbox's group, with one group a session in it.

    Args:
        parent: The group to make it in.
        name: The group's name.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, parent: Path, name: str):
        self.path = parent / name
        self.path.mkdir()
        try:
            self._directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            _write(self._directory, "cgroup.subtree_control", "+memory +pids")
        except OSError:
            self.path.rmdir()
            raise

    def add(self, key: int, memory: int, processes: int) -> None:
        """Makes a session's group."""
        os.mkdir(str(key), dir_fd=self._directory)
        _write(self._directory, f"{key}/memory.max", str(memory + OVERHEAD))
        _write(self._directory, f"{key}/pids.max", str(processes))
        _write(self._directory, f"{key}/memory.oom.group", "1")
        with contextlib.suppress(OSError):  # not there without swap accounting
            _write(self._directory, f"{key}/memory.swap.max", "0")

    def join(self, key: int) -> None:
        """Moves the calling process into a session's group."""
        _write(self._directory, f"{key}/cgroup.procs", "0")

    def remove(self, key: int) -> bool:
        """Removes the group of a session that has ended. Returns whether the kernel had killed in it for memory."""
        killed = False
        with contextlib.suppress(OSError, ValueError):
            events = dict(line.split() for line in _read(self._directory, f"{key}/memory.events").splitlines())
            killed = int(events.get("oom_kill", 0)) > 0
        with contextlib.suppress(OSError):
            os.rmdir(str(key), dir_fd=self._directory)
        return killed


def make(pid: int, root: Path = Path("/")) -> Groups:
    """Makes the sandbox's group for the calling process.

    Args:
        pid: Makes the name unique.
        root: Root of the file system with /proc and the control groups.

    Raises:
        OSError: There is no place for one.
    """
    mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in mounts if " - cgroup2 " in line]
    own = [line[3:] for line in (root / "proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    if not points or not own:
        raise OSError(errno.ENOENT, "no control groups of version 2")
    top = root / points[0].lstrip("/")
    place = top / own[0].lstrip("/")
    reason = OSError(errno.ENOENT, "no group here hands on the memory and pids controllers")
    while True:
        try:
            if set((place / "cgroup.subtree_control").read_text().split()) >= NEEDED:
                return Groups(place, f"genprm-sandbox-{pid}")
        except OSError as error:
            reason = error
        if place == top or top not in place.parents:
            raise reason
        place = place.parent


def remove_all(path: Path) -> None:
    """Removes the sandbox's group and what is left in it, once its processes are gone."""
    with contextlib.suppress(OSError):
        for child in path.iterdir():
            if child.is_dir():
                with contextlib.suppress(OSError):
                    child.rmdir()
        path.rmdir()


def _write(directory: int, name: str, text: str) -> None:
    descriptor = os.open(name, os.O_WRONLY, dir_fd=directory)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _read(directory: int, name: str) -> str:
    descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
    try:
        return os.read(descriptor, 4096).decode()
    finally:
        os.close(descriptor)
