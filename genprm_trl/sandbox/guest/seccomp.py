"""The system call filter, assembled for the kernel's packet-filter machine without a library.

An allow-list: what pure computation with files, threads and forks needs. Everything else fails with EPERM: sockets
other than pairs, new programs, namespaces, mounts, tracing, keys, BPF, io_uring, user-fault handling, modules,
System V and POSIX IPC, inotify, anonymous memory files, setting clocks, changing identity. Calls newer than the table
fail with ENOSYS, so that the C library falls back to older ones. A call of a foreign architecture is a signal that
ends the process: to be killed by the filter itself would leave a line in the host's log each time.

What would act on files that the host and all sessions read (locks, advice on their cached pages, writing them out) is
answered as if it had been done.

Instruction format and return values: Linux, Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from . import linux

# System call numbers: (x86_64, aarch64), None where the architecture has no such call.
_NUMBERS = {
    # memory
    "brk": (12, 214),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "mprotect": (10, 226),
    "madvise": (28, 233),
    "msync": (26, 227),
    "membarrier": (324, 283),
    # files in reach
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "preadv": (295, 69),
    "pwritev": (296, 70),
    "preadv2": (327, 286),
    "pwritev2": (328, 287),
    "open": (2, None),
    "openat": (257, 56),
    "creat": (85, None),
    "close": (3, 57),
    "close_range": (436, 436),
    "lseek": (8, 62),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getdents": (78, None),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "fadvise64": (221, 223),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "sync_file_range": (277, 84),
    "readahead": (187, 213),
    "utime": (132, None),
    "utimes": (235, None),
    "utimensat": (280, 88),
    "futimesat": (261, None),
    "umask": (95, 166),
    "flock": (73, 32),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "sendfile": (40, 71),
    "copy_file_range": (326, 285),
    "getxattr": (191, 8),
    "lgetxattr": (192, 9),
    "fgetxattr": (193, 10),
    "listxattr": (194, 11),
    "llistxattr": (195, 12),
    "flistxattr": (196, 13),
    # pipes, polling, socket pairs
    "pipe": (22, None),
    "pipe2": (293, 59),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "epoll_create": (213, None),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441),
    "eventfd": (284, None),
    "eventfd2": (290, 19),
    "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86),
    "timerfd_gettime": (287, 87),
    "signalfd": (282, None),
    "signalfd4": (289, 74),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "sendmmsg": (307, 269),
    "recvmmsg": (299, 243),
    "shutdown": (48, 210),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    # processes and threads
    "fork": (57, None),
    "vfork": (58, None),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "wait4": (61, 260),
    "waitid": (247, 95),
    "set_tid_address": (218, 96),
    "set_robust_list": (273, 99),
    "get_robust_list": (274, 100),
    "rseq": (334, 293),
    "futex": (202, 98),
    "futex_waitv": (449, 449),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "sched_getscheduler": (145, 120),
    "sched_getparam": (143, 121),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "getpriority": (140, 141),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getpgrp": (111, None),
    "getpgid": (121, 155),
    "getsid": (124, 156),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getgroups": (115, 158),
    "arch_prctl": (158, None),
    # signals and time
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132),
    "pause": (34, None),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "getitimer": (36, 102),
    "timer_create": (222, 107),
    "timer_settime": (223, 110),
    "timer_gettime": (224, 108),
    "timer_getoverrun": (225, 109),
    "timer_delete": (226, 111),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "restart_syscall": (219, 128),
    # what a process may know
    "getrlimit": (97, 163),
    "setrlimit": (160, 164),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "getcpu": (309, 168),
    "getrandom": (318, 278),
    # filtered by argument
    "setpgid": (109, 154),
    "setsid": (112, 157),
    "setsockopt": (54, 208),
    "getsockopt": (55, 209),
    "fcntl": (72, 25),
    "socketpair": (53, 199),
    "clone": (56, 220),
    "clone3": (435, 435),
    "prlimit64": (302, 261),
    "prctl": (157, 167),
    "ioctl": (16, 29),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
}
_LEAVING_THE_GROUP = ("setsid", "setpgid")
_ATTRIBUTES = ("chmod", "fchmod", "fchmodat", "utime", "utimes", "utimensat", "futimesat", "truncate")
# What gives a file on disk no name any more, while it still takes place there: nobody could say how much.
_UNNAMING = ("unlink", "rename", "renameat", "renameat2")
_REMOVE_DIRECTORY, _UNNAMED = 0x200, 0x400000  # flags of unlinkat and openat
_SIGNALLING = ("kill", "tgkill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
_NEWEST_KNOWN = 450  # numbers above this came after both tables and are the same on all architectures

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

_AF_UNIX = 1
# Connected for good: a datagram socket could leave its peer, get a name, and send to any in the network namespace.
_PAIR_TYPES = tuple(kind | flags for kind in (1, 5) for flags in (0, 0x800, 0x80000, 0x80800))  # stream, seqpacket
# Type, error, buffer sizes, time-outs, protocol, domain. Not: filters (programs for the kernel), credentials, peers.
_SOCKET_OPTIONS = (3, 4, 7, 8, 20, 21, 38, 39)
# Duplicates, flags, a pipe's size, seals. Not: owners of signals, leases, notifications, who has a lock, larger pipes.
_FCNTLS = (0, 1, 2, 3, 4, 1030, 1032, 1034)
_LOCKS = (6, 7, 37, 38)  # setting record locks of both kinds
_PRETENDED = ("flock", "fadvise64", "readahead", "fsync", "fdatasync", "sync_file_range", "msync")
# Not: pages shared with other processes of the same content, or pushed out of the memory that others read, too.
_ADVICE = (0, 1, 2, 3, 4, 8, 10, 11, 14, 15, 16, 17, 18, 19, 102, 103)
_OUT_OF_BAND = 1  # a flag of sending and receiving: code of the kernel that nothing here needs
_NAMESPACE_FLAGS = 0x7E020000  # every CLONE_NEW* flag that clone() takes
_PRCTLS = (3, 15, 16, 21, 23, 39, 0x53564D41)  # dumpable?, names, seccomp?, bounding set?, no_new_privs?, memory names
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # a terminal?, its size, FIONREAD, FIONBIO, close-on-exec

_LOAD, _RETURN, _JUMP = 0x20, 0x06, 0x05
_JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET = 0x15, 0x35, 0x45
_ALLOW, _PRETEND, _SIGNAL = 0x7FFF0000, 0x00050000, 0x00030000
_DENY, _UNKNOWN, _INVALID = (_PRETEND | number for number in (errno.EPERM, errno.ENOSYS, errno.EINVAL))
_NUMBER_OFFSET, _ARCH_OFFSET = 0, 4


def _argument_offset(index: int) -> int:
    return 16 + 8 * index  # the low half, on the little-endian machines that we support


class _Program:
    def __init__(self) -> None:
        self.code: list[bytes] = []

    def add(self, operation: int, value: int, if_true: int = 0, if_false: int = 0) -> None:
        self.code.append(struct.pack("<HBBI", operation, if_true, if_false, value))


def _returning(action: int) -> _Program:
    program = _Program()
    program.add(_RETURN, action)
    return program


def _argument_in(
    index: int, values: tuple[int, ...], otherwise: int = _DENY, pretended: tuple[int, ...] = ()
) -> _Program:
    program = _Program()
    program.add(_LOAD, _argument_offset(index))
    for value in (*values, *pretended):
        program.add(_JUMP_EQUAL, value, 0, 1)
        program.add(_RETURN, _ALLOW if value in values else _PRETEND)
    program.add(_RETURN, otherwise)
    return program


def _socket_pair() -> _Program:
    """Only Unix sockets, and only those that stay with their peer."""
    program = _Program()
    program.add(_LOAD, _argument_offset(0))
    program.add(_JUMP_EQUAL, _AF_UNIX, 1, 0)
    program.add(_RETURN, _DENY)
    program.code += _argument_in(1, _PAIR_TYPES).code
    return program


def _without_flags(index: int, flags: int) -> _Program:
    program = _Program()
    program.add(_LOAD, _argument_offset(index))
    program.add(_JUMP_SET, flags, 0, 1)
    program.add(_RETURN, _DENY)
    program.add(_RETURN, _ALLOW)
    return program


def _search(segments: list[tuple[int, _Program]]) -> list[bytes]:
    """A binary search for the last segment that starts at or below the number at hand.

    The kernel tries each number when a filter is installed, which each session does: comparing them one after the
    other would take longer than making its namespaces.
    """
    if len(segments) == 1:
        return segments[0][1].code
    middle = len(segments) // 2
    left, right = _search(segments[:middle]), _search(segments[middle:])
    node = _Program()
    if len(left) < 256:
        node.add(_JUMP_AT_LEAST, segments[middle][0], len(left), 0)
    else:  # farther than a comparison can jump
        node.add(_JUMP_AT_LEAST, segments[middle][0], 0, 1)
        node.add(_JUMP, len(left))
    return node.code + left + right


def assemble(machine: str, own_processes_only: int | None = None, attributes: bool = True) -> bytes:
    """The filter's instructions.

    Args:
        machine: `x86_64` or `aarch64`.
        own_processes_only: The process id that signals may go to, where no PID namespace hides the others.
        attributes: Whether files may change theirs by name, or lose it: not where the user's other files are in sight,
            which Landlock keeps from being opened only, and where a session's files are counted on the host's disk.
    """
    column = ("x86_64", "aarch64").index(machine)
    numbers = {name: pair[column] for name, pair in _NUMBERS.items()}
    special = {
        "socketpair": _socket_pair(),
        "getsockopt": _argument_in(2, _SOCKET_OPTIONS),
        "setsockopt": _argument_in(2, _SOCKET_OPTIONS),
        "fcntl": _argument_in(1, _FCNTLS, pretended=_LOCKS),
        "madvise": _argument_in(2, _ADVICE, _INVALID),
        **dict.fromkeys(("sendto", "recvfrom", "sendmmsg", "recvmmsg"), _without_flags(3, _OUT_OF_BAND)),
        **dict.fromkeys(("sendmsg", "recvmsg"), _without_flags(2, _OUT_OF_BAND)),
        **dict.fromkeys(_PRETENDED, _returning(_PRETEND)),
        "clone": _without_flags(0, _NAMESPACE_FLAGS),
        "clone3": _returning(_UNKNOWN),  # its flags lie in memory, out of a filter's sight; callers fall back to clone
        "prlimit64": _argument_in(0, (0,)),
        "prctl": _argument_in(0, _PRCTLS),
        "ioctl": _argument_in(1, _IOCTLS, 0x00050000 | errno.ENOTTY),
    }
    for name in _LEAVING_THE_GROUP:  # the group is what a session's processes are ended by without a namespace
        special[name] = _returning(_ALLOW if own_processes_only is None else _DENY)
    for name in _SIGNALLING:
        special[name] = _returning(_ALLOW) if own_processes_only is None else _argument_in(0, (0, own_processes_only))
    program = _Program()
    program.add(_LOAD, _ARCH_OFFSET)
    program.add(_JUMP_EQUAL, _AUDIT_ARCH[machine], 1, 0)
    program.add(_RETURN, _SIGNAL)
    program.add(_LOAD, _NUMBER_OFFSET)
    if machine == "x86_64":
        program.add(_JUMP_SET, _X32_BIT, 0, 1)
        program.add(_RETURN, _SIGNAL)
    if not attributes:
        special |= dict.fromkeys((*_ATTRIBUTES, *_UNNAMING), _returning(_DENY))
        special["unlinkat"] = _argument_in(2, (_REMOVE_DIRECTORY,))
        special["open"], special["openat"] = _without_flags(1, _UNNAMED), _without_flags(2, _UNNAMED)
    actions = {n: special.get(name, _returning(_ALLOW)) for name, n in numbers.items() if n is not None}
    segments: list[tuple[int, _Program]] = []
    for number in range(_NEWEST_KNOWN + 1):
        action = actions.get(number, _returning(_DENY))
        if not segments or segments[-1][1].code != action.code:
            segments.append((number, action))
    segments.append((_NEWEST_KNOWN + 1, _returning(_UNKNOWN)))
    program.code += _search(segments)
    return b"".join(program.code)


class Filter:
    """A filter ready to be installed, by any process that has this object: made once, for all sessions.

    Args:
        code: The filter that `assemble` returned.
    """

    def __init__(self, code: bytes):
        self._code = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("@HP", len(code) // 8, ctypes.addressof(self._code))  # struct sock_fprog
        self._program = ctypes.create_string_buffer(program, len(program))

    def install(self) -> None:
        """Puts it on this thread and all that it starts, for good. Needs no_new_privs. Raises OSError."""
        mode_filter = 1
        linux.syscall("seccomp", mode_filter, 0, ctypes.addressof(self._program))
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError as error:
            if error.errno == errno.EPERM:
                return
        raise OSError(errno.ENOSYS, "the filter was accepted but does not filter")
