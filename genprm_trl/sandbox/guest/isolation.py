"""The layers of the wall, from the outermost in. Each says whether it holds; none is taken for granted.

`enter_outer` runs once in the launcher, `hide_root` once in the zygote, `enter_session` in every session's process. A
layer that the kernel refuses is noted with its reason, and the rest go on: the host decides whether it is enough.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import stat
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import linux, seccomp

NOBODY = 65534
ROOT = "/tmp"  # where the new root is put together, inside our own mount namespace
Outcomes = dict[str, str]  # name of a protection -> "" where it holds, otherwise why not

NAMES = (
    "separate_process",
    "limits",
    "empty_environment",
    "unprivileged_user",
    "user_namespace",
    "pid_namespace",
    "mount_namespace",
    "no_network",
    "ipc_namespace",
    "uts_namespace",
    "hidden_root",
    "private_tmp",
    "no_capabilities",
    "no_new_privs",
    "seccomp",
    "cgroup",
)
NO_LINUX = "needs Linux on x86_64 or aarch64"


def attempt(outcomes: Outcomes, name: str, action: Callable[[], Any]) -> bool:
    """Tries a layer and notes the outcome."""
    try:
        action()
    except (OSError, AttributeError, KeyError) as error:
        outcomes[name] = str(error) or type(error).__name__
        return False
    outcomes[name] = ""
    return True


def enter_outer(outcomes: Outcomes, directory: str) -> None:
    """Enters namespaces shared by all sessions. The next fork is process 1 of the new PID namespace.

    Args:
        outcomes: Where to note what holds.
        directory: Where the sessions' directories will be, if they cannot have private ones.
    """
    if not linux.SUPPORTED:
        return
    if os.geteuid() != 0 or not _can_unshare():
        if os.geteuid() == 0:
            with contextlib.suppress(OSError):
                os.chown(directory, NOBODY, NOBODY)
                _become_nobody()
        attempt(outcomes, "outer_user_namespace", _new_user_namespace)
    for name, flag in (
        ("mount_namespace", linux.CLONE_NEWNS),
        ("no_network", linux.CLONE_NEWNET),
        ("uts_namespace", linux.CLONE_NEWUTS),
        ("ipc_namespace", linux.CLONE_NEWIPC),
        ("pid_namespace", linux.CLONE_NEWPID),
    ):
        attempt(outcomes, name, lambda flag=flag: linux.unshare(flag))  # type: ignore[misc]
    if not outcomes["uts_namespace"]:
        import socket

        with contextlib.suppress(OSError):
            socket.sethostname("sandbox")
    if not outcomes["mount_namespace"]:
        attempt(outcomes, "mount_namespace", lambda: linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE))


def hide_root(outcomes: Outcomes, disk: int) -> None:
    """Changes to a root of our own: the interpreter's library, read-only, a few devices, and an empty /tmp.

    Sources are opened before the new root covers them, so an interpreter that lives below /tmp is found as well.
    """
    if outcomes.get("mount_namespace") != "":
        outcomes["hidden_root"] = outcomes["private_tmp"] = "needs the mount namespace"
        return
    attempt(outcomes, "hidden_root", lambda: _build_root(disk))
    _filter(None)  # assembled once, for all sessions


def enter_session(outcomes: Outcomes, limits: dict[str, Any], directory: str, proc: int | None) -> None:
    """Walls in the calling process for good. `directory` is its own when there is no private tmp; `proc` a procfs."""
    if not linux.SUPPORTED:
        os.chdir(directory)
        _set_limits(limits, _address_space(None))
        outcomes.update({"separate_process": "", "limits": "", "empty_environment": ""})
        return
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    outcomes.update({"separate_process": "", "empty_environment": ""})
    if outcomes.get("ipc_namespace") == "":
        attempt(outcomes, "ipc_namespace", lambda: linux.unshare(linux.CLONE_NEWIPC))
    if outcomes.get("hidden_root") == "":
        attempt(outcomes, "private_tmp", lambda: _private_tmp(limits["disk"]))
        os.chdir(_scratch())
    else:
        os.chdir(directory)
    baseline = _address_space(proc)
    if os.geteuid() == 0:
        attempt(outcomes, "unprivileged_user", _become_nobody)
    else:
        outcomes["unprivileged_user"] = ""
    attempt(outcomes, "user_namespace", lambda: _new_user_namespace(proc))
    attempt(outcomes, "limits", lambda: _set_limits(limits, baseline))
    attempt(outcomes, "no_capabilities", linux.drop_capabilities)
    attempt(outcomes, "no_new_privs", lambda: linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1))
    with contextlib.suppress(OSError):
        linux.prctl(linux.PR_SET_DUMPABLE, 0)  # nobody of the same user may trace or dump it
    signals_to = None if outcomes.get("pid_namespace") == "" else os.getpid()
    attempt(outcomes, "seccomp", lambda: seccomp.install(_filter(signals_to)))


@functools.cache
def _filter(signals_to: int | None) -> bytes:
    return seccomp.assemble(linux.MACHINE, signals_to)


def _can_unshare() -> bool:
    """Whether root has CAP_SYS_ADMIN, as it has not in most containers."""
    with open("/proc/self/status", encoding="ascii") as lines:  # noqa: PTH123
        effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))
    return bool(effective >> 21 & 1)


def _become_nobody() -> None:
    with contextlib.suppress(PermissionError):  # forbidden in a user namespace; the groups there are not ours either
        os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    linux.prctl(linux.PR_SET_DUMPABLE, 1)  # or /proc/self would stay root's, and the id maps unwritable


def _new_user_namespace(proc: int | None = None) -> None:
    """Enters a user namespace in which only the own user and group exist."""
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER)
    base = proc if proc is not None else os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            descriptor = os.open(f"self/{name}", os.O_WRONLY, dir_fd=base)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
    finally:
        if proc is None:
            os.close(base)


def _library_paths() -> list[str]:
    """What the interpreter may still read once it runs: its library, its packages, shared objects."""
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths += [p for p in sys.path if p and Path(p).is_dir()]
    paths += [str(Path(sys.base_prefix) / "lib"), "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib"]
    real = sorted({os.path.realpath(p) for p in paths if p and Path(p).is_dir()})
    kept: list[str] = []
    for path in real:  # sorted, so a parent comes before what it holds
        if not any(path == k or path.startswith(k + "/") for k in kept) and path != "/":
            kept.append(path)
    return kept


@functools.cache
def _scratch() -> str:
    """Where the private temporary directory goes: not over an interpreter that lives below /tmp."""
    return "/scratch" if any(path.startswith("/tmp") for path in _library_paths()) else "/tmp"


def _build_root(disk: int) -> None:
    linux.unshare(linux.CLONE_NEWNS)  # the launcher keeps the machine's view, to tidy up with
    paths = _library_paths()
    sources = {p: os.open(p, os.O_PATH | os.O_DIRECTORY) for p in paths}
    devices = ("null", "zero", "full", "random", "urandom")
    sources |= {f"/dev/{d}": os.open(f"/dev/{d}", os.O_PATH) for d in devices}
    links = {p: Path(p).readlink() for p in ("/lib", "/lib64") if Path(p).is_symlink()}
    umask = os.umask(0o022)  # the worker's user must be able to walk through the directories made here
    linux.mount("tmpfs", ROOT, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=1m,mode=0755")
    try:
        for path, descriptor in sources.items():
            target = Path(ROOT + path)
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                target.mkdir(parents=True, exist_ok=True, mode=0o755)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
            linux.mount(f"/proc/self/fd/{descriptor}", str(target), None, linux.MS_BIND | linux.MS_REC)
            if path in paths:
                linux.make_read_only(str(target))
        for path, aim in links.items():
            with contextlib.suppress(FileExistsError):
                Path(ROOT + path).symlink_to(aim)
        for path in (ROOT + _scratch(), ROOT + "/.old"):
            Path(path).mkdir(exist_ok=True)
        os.chdir(ROOT)
        linux.pivot_root(".", ".old")
        os.chdir("/")
        linux.detach("/.old")
        Path("/.old").rmdir()
        linux.mount("none", "/", None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID)
    except OSError:
        linux.detach(ROOT)  # back to the machine's own
        raise
    finally:
        os.umask(umask)
        for descriptor in sources.values():
            os.close(descriptor)


def _private_tmp(disk: int) -> None:
    linux.unshare(linux.CLONE_NEWNS)
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("tmpfs", _scratch(), "tmpfs", flags, f"size={disk},nr_inodes=4096,mode=1777")


def _address_space(proc: int | None) -> int:
    """Bytes of address space that the warmed-up interpreter itself takes: the memory limit comes on top."""
    try:
        descriptor = os.open("self/statm", os.O_RDONLY, dir_fd=proc) if proc is not None else os.open(
            "/proc/self/statm", os.O_RDONLY
        )  # fmt: skip
    except OSError:
        return 0
    try:
        return int(os.read(descriptor, 100).split()[0]) * resource.getpagesize()
    finally:
        os.close(descriptor)


def _set_limits(limits: dict[str, Any], baseline: int) -> None:
    from .worker import RESERVE

    memory = baseline + limits["memory"]
    wanted = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_CPU: (limits["cpu"], limits["cpu"] + 1),
        resource.RLIMIT_FSIZE: (limits["file_size"],) * 2,
        resource.RLIMIT_NOFILE: (limits["open_files"],) * 2,
        resource.RLIMIT_NPROC: (limits["processes"],) * 2,
        resource.RLIMIT_MEMLOCK: (0, 0),
    }
    if sys.platform == "linux":
        wanted[resource.RLIMIT_AS] = (memory, memory + RESERVE)
        wanted[resource.RLIMIT_MSGQUEUE] = (0, 0)
        wanted[resource.RLIMIT_SIGPENDING] = (256, 256)
    for which, (soft, hard) in wanted.items():
        ceiling = resource.getrlimit(which)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(which, (soft, hard))
