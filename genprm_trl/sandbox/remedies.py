"""What to do on this machine about a protection that it lacks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from genprm_trl.sandbox.guest import linux

# Without one of these a program reaches what is not its own: files, or the network.
WALL = ("no_network", "files")
# Works whatever the kernel refuses.
SERVER = "run code on a SandboxFusion server (--sandbox http://HOST:8080)"
ELSEWHERE = f"{SERVER}, or accept by name that programs reach your files and your network (--allow_weak_sandbox)"
CONTAINER = "start the container with: docker run --cap-add SYS_ADMIN --security-opt apparmor=unconfined ..."
NAMESPACES = (
    "allow unprivileged user namespaces (sysctl user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0), run as root, or give the container CAP_SYS_ADMIN"
)
# What forbids user namespaces: a file below /proc/sys, the value that does, and what an administrator runs.
_FORBIDDING = (
    ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
    ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
)
_NEED_NAMESPACES = (
    *("network_namespace", "pid_namespace", "mount_namespace", "ipc_namespace", "uts_namespace", "user_namespace"),
    *("hidden_root", "private_tmp"),
)
_FILTER = "use a kernel built with CONFIG_SECCOMP_FILTER"
_LANDLOCK = "use Linux 5.13 or newer with landlock among its security modules (kernel parameter lsm=)"


def remedy_for(name: str, *, root: Path = Path("/")) -> str:
    """What to do here about a protection that does not hold; empty if there is nothing to do.

    Args:
        name: The protection.
        root: Where the machine's files are.
    """
    if not linux.SUPPORTED:
        return ELSEWHERE
    if name in (*_NEED_NAMESPACES, *WALL):
        return _allow_namespaces(root)
    return {
        "seccomp": f"{_FILTER}, on x86_64 or aarch64",
        "unprivileged_user": "do not run as the only user of a user namespace",
        "landlock": _LANDLOCK,
        "cgroup": "run as root or delegate a cgroup with the memory and pids controllers",
    }.get(name, "")


def _allow_namespaces(root: Path) -> str:
    """How to get namespaces here, in one command where it can be known which."""
    for name, value, command in _FORBIDDING:
        if _read(root / "proc/sys" / name).strip() == value:
            return f"let an administrator run: {command}"
    marks = (root / ".dockerenv", root / "run/.containerenv")
    # A process of an ordinary login has no filter of system calls (mode 2) that it did not ask for.
    if any(mark.exists() for mark in marks) or "\nSeccomp:\t2\n" in _read(root / "proc/self/status"):
        return CONTAINER
    return NAMESPACES


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def missing_text(reasons: dict[str, str], missing: Iterable[str]) -> str:
    """A line for each protection that does not hold: why not, and what to do about it. Each remedy is said once."""
    missing, lines = list(missing), []
    said: set[str] = set()
    for name in missing:
        remedy = remedy_for(name)
        lines.append(f"  {name}: {reasons[name]}")
        if remedy not in ("", *said):
            lines.append(f"    {remedy}")
        said.add(remedy)
    if any(name in WALL for name in missing) and ELSEWHERE not in said:
        lines.append(f"  Otherwise {ELSEWHERE}")
    return "\n".join(lines)
