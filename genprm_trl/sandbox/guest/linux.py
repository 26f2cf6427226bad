"""The system calls that Python 3.11 does not wrap. Every function raises OSError with the call's name."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 18,
)  # fmt: skip
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SECCOMP = 1, 4, 24, 22
PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 28, 38, 47, 4
PR_SET_CHILD_SUBREAPER = 36
# SECBIT_NOROOT, NO_SETUID_FIXUP and KEEP_CAPS off and locked: user id 0 means nothing, whatever is executed.
SECUREBITS = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x80

NICE = 3  # half of the host's share of a core that both want; not less, for a block's time is wall time

_COMMON = {
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}
_SYSCALLS = {
    "x86_64": {"pivot_root": 155, "capset": 126, "seccomp": 317, **_COMMON},
    "aarch64": {"pivot_root": 41, "capset": 91, "seccomp": 277, **_COMMON},
}
MACHINE = os.uname().machine  # platform.machine() would remember the host's name for every session
SUPPORTED = sys.platform == "linux" and MACHINE in _SYSCALLS and ctypes.sizeof(ctypes.c_void_p) == 8

if sys.platform == "linux":
    _libc = ctypes.CDLL(None, use_errno=True)
    _libc.syscall.restype = ctypes.c_long
    _libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    _libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def yield_to_others() -> None:
    """Makes the calling process, and all that it starts, the first to wait for a core and to be killed for memory."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    with contextlib.suppress(OSError):
        write_to("/proc/self/oom_score_adj", "1000")


def yield_as_group(proc: int) -> None:
    """Does the same for a process that leads a session, where Linux shares the cores out to sessions.

    Args:
        proc: Descriptor of a procfs.
    """
    with contextlib.suppress(OSError):  # there is no such sharing, or too many ask at once
        write_to("self/autogroup", str(NICE), proc)


def write_to(path: str, text: str, directory: int | None = None) -> None:
    """Writes to a file that is there, such as one of the kernel's.

    Args:
        path: The file.
        text: What is written in one call.
        directory: Descriptor of the directory that the path starts from. Default: the working directory.

    Raises:
        OSError: It cannot be opened, or the kernel refuses the text.
    """
    descriptor = os.open(path, os.O_WRONLY, dir_fd=directory)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def gather_memory(proc: int) -> None:
    """Gathers the process's own memory in huge pages where it can (Linux 6.1). `proc`: descriptor of a procfs.

    A fork copies an entry for each page and an exit frees it again: with huge pages a five-hundredth of them. What a
    child writes to is copied by small pages all the same.
    """
    collapse, huge = 25, 2 << 20
    _libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    with os.fdopen(os.open("self/maps", os.O_RDONLY, dir_fd=proc), encoding="utf-8", errors="replace") as lines:
        mappings = [line.split() for line in lines]
    for addresses, access, _, _, inode, *name in mappings:
        if access == "rw-p" and inode == "0" and name in ([], ["[heap]"]):
            start, end = (int(address, 16) // huge * huge for address in addresses.split("-"))
            for address in range(start + huge, end, huge):
                _libc.madvise(address, huge, collapse)  # whether it did is a matter of speed alone


def _check(result: int, name: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def syscall(name: str, *arguments: int | bytes | None) -> int:
    """A raw system call by name. Integers go as 64 bits, so that pointers and flags survive the variadic call."""
    number = _SYSCALLS[MACHINE][name]
    values = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *values), name)


def unshare(flags: int) -> None:
    """Moves this process into new namespaces; a new process namespace holds only its later children.

    Args:
        flags: The kinds of namespaces, as `CLONE_NEW*` bits.

    Raises:
        OSError: The kernel refuses.
    """
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Moves this process into an existing namespace; a process namespace takes effect for later children.

    Args:
        descriptor: Refers to the namespace, as an open file of `/proc/PID/ns`.
        kind: The `CLONE_NEW*` bit of its kind.

    Raises:
        OSError: The kernel refuses.
    """
    _check(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), "setns")


def prctl(option: int, *arguments: int) -> int:
    """Calls `prctl(2)` with 0 for the arguments that are not given, and returns its result.

    Raises:
        OSError: The kernel refuses.
    """
    return _check(_libc.prctl(option, *(*arguments, 0, 0, 0, 0)[:4]), f"prctl {option}")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Calls `mount(2)`.

    Args:
        source: What to mount.
        target: The directory or file to mount it over.
        kind: The file system's type; None where the flags need none, as to bind or remount.
        flags: `MS_*` bits.
        options: Options of the file system, separated by commas.

    Raises:
        OSError: The kernel refuses.
    """
    result = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode() if kind else None, flags, options.encode() or None
    )
    _check(result, f"mount {target}")


def detach(target: str) -> None:
    """Takes a mount out of the tree at once; the kernel frees it when nothing uses it any more.

    Raises:
        OSError: The kernel refuses.
    """
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(MNT_DETACH)), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """Makes the mount at `new` the root directory, and moves the old root to `old`.

    Raises:
        OSError: The kernel refuses.
    """
    syscall("pivot_root", os.fsencode(new), os.fsencode(old))


def make_read_only(target: str, devices: bool = False) -> None:
    """Makes a mount and all mounts below it read-only, without set-user-id programs and `devices` (Linux 5.12)."""

    class MountAttr(ctypes.Structure):
        _fields_ = [(n, ctypes.c_uint64) for n in ("attr_set", "attr_clr", "propagation", "userns_fd")]

    flags = MS_RDONLY | MS_NOSUID | (0 if devices else MS_NODEV)  # MOUNT_ATTR_* have these bits too
    attr = MountAttr(flags, 0, 0, 0)
    at_fdcwd, at_recursive = -100, 0x8000
    address = ctypes.addressof(attr)
    syscall("mount_setattr", at_fdcwd, os.fsencode(target), at_recursive, address, ctypes.sizeof(attr))


def drop_capabilities() -> None:
    """Empties every capability set for good. What cannot be locked without a capability is already harmless."""
    with contextlib.suppress(OSError):
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            break  # past the last one that this kernel knows, or not ours to drop
    with contextlib.suppress(OSError):
        prctl(PR_SET_SECUREBITS, SECUREBITS)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    syscall("capset", ctypes.addressof(header), ctypes.addressof(data))
