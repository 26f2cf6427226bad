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

from . import landlock, linux, seccomp

NOBODY = 65534
FIRST_USER, USERS = 1_900_000_000, 1 << 24  # ids that systemd's list of ranges calls unused
MOST_FILES = 4096  # in a session's directory
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
    "network_namespace",
    "ipc_namespace",
    "uts_namespace",
    "hidden_root",
    "private_tmp",
    "no_capabilities",
    "no_new_privs",
    "landlock",
    "seccomp",
    "no_network",
    "files",
    "cgroup",
)
DEVICES = tuple(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom"))
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
        outcomes: A mapping that takes the outcome of each protection.
        directory: The parent of the sessions' directories, if they cannot have private ones.
    """
    if not linux.SUPPORTED:
        return
    if os.geteuid() != 0 or not _can_unshare():
        try:
            if os.geteuid() == 0:
                if not _works_in_a_child(_go_on_as_nobody):
                    raise PermissionError
                os.chown(directory, NOBODY, NOBODY)
                _become(NOBODY)
            _new_user_namespace()
        except OSError:
            pass  # the namespaces below will say why
    for name, flag in (
        ("mount_namespace", linux.CLONE_NEWNS),
        ("network_namespace", linux.CLONE_NEWNET),
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


def hide_root(outcomes: Outcomes) -> None:
    """Changes to a root of our own: the interpreter's library, read-only, a few devices, and an empty /tmp.

    Sources are opened before the new root covers them, so an interpreter that lives below /tmp is found as well.
    """
    if not linux.SUPPORTED:
        return
    if outcomes.get("mount_namespace") != "":
        outcomes["hidden_root"] = outcomes["private_tmp"] = "needs the mount namespace"
        return
    attempt(outcomes, "hidden_root", _build_root)
    _filter(None, True)  # assembled once, for all sessions


def enter_session(outcomes: Outcomes, limits: dict[str, Any], key: int, directory: str, proc: int | None) -> None:
    """Walls in the calling process for good.

    Args:
        outcomes: What holds so far, and where to note the rest.
        limits: The sandbox's `Limits` as a dictionary.
        key: The session's number.
        directory: The session's directory, if there is no private /tmp.
        proc: Descriptor of a procfs.
    """
    if not linux.SUPPORTED:
        os.chdir(directory)
        _set_limits(limits, _address_space(None))
        outcomes.update({"separate_process": "", "limits": "", "empty_environment": ""})
        return
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)  # its daemons stay below it, with or without a PID namespace
    if proc is not None:
        linux.yield_as_group(proc)
    outcomes.update({"separate_process": "", "empty_environment": ""})
    if outcomes.get("ipc_namespace") == "":
        attempt(outcomes, "ipc_namespace", lambda: linux.unshare(linux.CLONE_NEWIPC))
    if outcomes.get("hidden_root") == "":
        attempt(outcomes, "private_tmp", lambda: _private_tmp(limits["disk"]))
        os.chdir(scratch())
    else:
        os.chdir(directory)
    baseline = _address_space(proc)
    if os.geteuid() == 0:
        attempt(outcomes, "unprivileged_user", lambda: _become(session_user(key)))
    else:
        outcomes["unprivileged_user"] = ""
    attempt(outcomes, "user_namespace", lambda: _new_user_namespace(proc))
    hidden = outcomes.get("hidden_root") == ""
    # The kernel counts a user's processes. Only a separate namespace, or a separate id, leaves out those of others.
    others = 0 if outcomes["user_namespace"] == "" or os.geteuid() >= FIRST_USER else _processes_of(os.geteuid())
    attempt(outcomes, "no_new_privs", lambda: linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1))
    readable, own = (("/",), scratch()) if hidden else (library_paths(), directory)
    attempt(outcomes, "landlock", lambda: landlock.restrict(readable, DEVICES, own))
    attempt(outcomes, "limits", lambda: _set_limits(limits, baseline, others))
    attempt(outcomes, "no_capabilities", linux.drop_capabilities)
    with contextlib.suppress(OSError):
        linux.prctl(linux.PR_SET_DUMPABLE, 0)  # nobody of the same user may trace or dump it
    signals_to = None if outcomes.get("pid_namespace") == "" else os.getpid()
    attempt(outcomes, "seccomp", lambda: _filter(signals_to, hidden).install())
    # Either is enough: interfaces without a way out, or no call that makes a socket.
    namespace, filtered = outcomes["network_namespace"], outcomes["seccomp"]
    outcomes["no_network"] = f"{namespace}; {filtered}" if namespace and filtered else ""
    # Either keeps the machine's files from the program: they are not there, or may not be opened.
    root, ruled = outcomes["hidden_root"], outcomes["landlock"]
    outcomes["files"] = f"hidden_root: {root}; landlock: {ruled}" if root and ruled else ""


@functools.cache
def _filter(signals_to: int | None, attributes: bool) -> seccomp.Filter:
    return seccomp.Filter(seccomp.assemble(linux.MACHINE, signals_to, attributes))


def _can_unshare() -> bool:
    """Whether root has CAP_SYS_ADMIN, as it has not in most containers."""
    with open("/proc/self/status", encoding="ascii") as lines:  # noqa: PTH123
        effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))
    return bool(effective >> 21 & 1)


def _works_in_a_child(action: Callable[[], Any]) -> bool:
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            action()
            os._exit(0)
        os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _go_on_as_nobody() -> None:
    _become(NOBODY)
    if unreadable():
        raise PermissionError
    _new_user_namespace()


def unreadable() -> list[str]:
    """What of the interpreter's search path the calling process may not read: it could not import from there."""
    return [path for path in searched() if not os.access(path, os.R_OK | os.X_OK, effective_ids=True)]


def session_user(key: int) -> int:
    """The user that a session of root's becomes.

    Each session gets a separate one: what the kernel counts by user (processes, pipes, descriptors in flight) is then
    its own, and so are its files where there are no namespaces.
    """
    user = FIRST_USER + key % USERS
    return user if any(first <= user < first + length for first, length in mapped_users()) else NOBODY


@functools.cache
def mapped_users() -> list[tuple[int, int]]:
    """First and number of the user ids that exist in this user namespace."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as lines:  # noqa: PTH123
            return [(int(first), int(length)) for first, _, length in map(str.split, lines)]
    except OSError:
        return []


def _become(user: int) -> None:
    with contextlib.suppress(PermissionError):  # forbidden in a user namespace; the groups there are not ours either
        os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    linux.prctl(linux.PR_SET_DUMPABLE, 1)  # or /proc/self would stay root's, and the id maps unwritable


def _new_user_namespace(proc: int | None = None) -> None:
    """Enters a user namespace in which only the own user and group exist."""
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER)
    base = proc if proc is not None else os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            linux.write_to(f"self/{name}", text, base)
    finally:
        if proc is None:
            os.close(base)


@functools.cache
def searched() -> tuple[str, ...]:
    """The directories that modules are imported from, without those of projects that are only linked in.

    A development install puts a project's whole directory on the path, with whatever else lies there. To be called
    first once the libraries are imported, and before the root is hidden.
    """
    entries = {os.path.realpath(path) for path in sys.path}
    installed = [os.path.realpath(p) for p in (sys.prefix, sys.base_prefix)]
    ours = __name__.partition(".")[0]
    modules = [m for name, m in sys.modules.items() if name.partition(".")[0] != ours]
    files = {os.path.realpath(file) for m in modules if (file := getattr(m, "__file__", None))}
    # The innermost directory is the one that a module comes from: the environment may lie within a project's own.
    within = ([entry for entry in entries if Path(file).is_relative_to(entry)] for file in files)
    needed = {max(around, key=len) for around in within if around}

    def belongs(path: str) -> bool:
        real = Path(os.path.realpath(path))
        if {"site-packages", "dist-packages"} & {*Path(path).parts, *real.parts}:
            return True
        return any(real.is_relative_to(p) for p in installed) or str(real) in needed

    return tuple(path for path in sys.path if Path(path).is_dir() and belongs(path))


@functools.cache
def library_paths() -> tuple[str, ...]:
    """What the interpreter may still read once it runs: its library, its packages, shared objects."""
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths += searched()
    paths += [str(Path(sys.base_prefix) / "lib"), "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib"]
    real = sorted({os.path.realpath(p) for p in paths if p and Path(p).is_dir()})
    kept: list[str] = []
    for path in real:  # sorted, so a parent comes before what it holds
        if not any(path == k or path.startswith(k + "/") for k in kept) and path != "/":
            kept.append(path)
    return tuple(kept)


def _other_names(paths: tuple[str, ...]) -> dict[str, Path]:
    """Links for the names under which the interpreter knows what lies at `paths`, where a part of them is a link."""
    names = {name: Path(os.path.realpath(name)) for name in searched()}
    return {
        name: real
        for name, real in names.items()
        if name != str(real) and not any(Path(name).is_relative_to(path) for path in paths)
    }


@functools.cache
def scratch() -> str:
    """Where the private temporary directory goes: not over an interpreter that lives below /tmp."""
    return "/scratch" if any(path.startswith("/tmp") for path in library_paths()) else "/tmp"


def _build_root() -> None:
    linux.unshare(linux.CLONE_NEWNS)  # the launcher keeps the machine's view, to tidy up with
    paths = library_paths()
    sources = {p: os.open(p, os.O_PATH | os.O_DIRECTORY) for p in paths}
    sources |= {d: os.open(d, os.O_PATH) for d in DEVICES}
    links = {p: Path(p).readlink() for p in ("/lib", "/lib64") if Path(p).is_symlink()}
    links |= _other_names(paths)
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
            linux.make_read_only(str(target), devices=path not in paths)
        for path, aim in links.items():
            if not os.path.lexists(ROOT + path):
                Path(ROOT + path).parent.mkdir(parents=True, exist_ok=True)
                Path(ROOT + path).symlink_to(aim)
        for path in (ROOT + scratch(), ROOT + "/.old"):
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
    linux.mount("tmpfs", scratch(), "tmpfs", flags, f"size={disk},nr_inodes={MOST_FILES},mode=1777")


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


def _processes_of(user: int) -> int:
    """How many threads all processes of a user have."""
    number = 0
    for entry in Path("/proc").iterdir() if Path("/proc/self").exists() else ():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == user:
                number += len(os.listdir(entry / "task"))  # noqa: PTH208
    return number


def _set_limits(limits: dict[str, Any], baseline: int, others: int = 0) -> None:
    """Sets the resource limits. `baseline`: bytes on top of the memory limit; `others`: processes on top of theirs."""
    from .worker import RESERVE

    memory = baseline + limits["memory"]
    wanted = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_CPU: (limits["cpu"], limits["cpu"] + 1),
        resource.RLIMIT_FSIZE: (limits["file_size"],) * 2,
        resource.RLIMIT_NOFILE: (limits["open_files"],) * 2,
        resource.RLIMIT_NPROC: (others + limits["processes"],) * 2,
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
