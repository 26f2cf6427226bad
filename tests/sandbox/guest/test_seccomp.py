"""The system call filter, run instruction by instruction on both architectures."""

import errno
import struct

import pytest

from genprm_trl.sandbox.guest import seccomp

ALLOW, PRETEND, DENY, UNKNOWN = 0x7FFF0000, 0x50000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
SIGNAL = 0x30000
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def judge(code: bytes, number: int, arch: int, *arguments: int) -> int:
    """What the kernel's machine would return."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, value = struct.unpack_from("<HBBI", code, 8 * at)
        at += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif operation == 0x06:
            return value
        elif operation == 0x05:
            at += value
        else:
            test = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}
            at += if_true if test[operation] else if_false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_number(machine: str):
    code, column = seccomp.assemble(machine), list(ARCH).index(machine)
    names = {pair[column]: name for name, pair in seccomp._NUMBERS.items() if pair[column] is not None}
    by_argument = {"socketpair", "getsockopt", "setsockopt", "fcntl", "clone", "clone3", "prlimit64", "prctl", "ioctl"}
    by_argument |= {"madvise", "sendto", "recvfrom", "sendmsg", "recvmsg", "sendmmsg", "recvmmsg"}
    for number in (*range(600), 0x3FFFFFFF):
        verdict = judge(code, number, ARCH[machine])
        name = names.get(number)
        if name is None:
            assert verdict == (UNKNOWN if number > 450 else DENY), number
        elif name in seccomp._PRETENDED:
            assert verdict == PRETEND, name
        elif name not in by_argument:
            assert verdict == ALLOW, name


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_arguments(machine: str):
    column, arch = list(ARCH).index(machine), ARCH[machine]
    code = seccomp.assemble(machine)

    def verdict(name: str, *arguments: int, code: bytes = code) -> int:
        number = seccomp._NUMBERS[name][column]
        assert number is not None
        return judge(code, number, arch, *arguments)

    assert verdict("socketpair", 1, 1) == ALLOW
    assert verdict("socketpair", 1, 5 | 0x80800) == ALLOW
    assert verdict("socketpair", 2, 1) == DENY
    for kind in (2, 3, 2 | 0x80000):  # could leave its peer and send to any name
        assert verdict("socketpair", 1, kind) == DENY
    for option in (16, 17, 26, 50, 77):  # credentials, filters, process descriptors
        assert verdict("setsockopt", 3, 1, option) == verdict("getsockopt", 3, 1, option) == DENY
    assert verdict("setsockopt", 3, 1, 7) == verdict("getsockopt", 3, 1, 3) == ALLOW
    for command in (8, 10, 15, 1024, 1026):  # who gets signals, which signal, leases, notifications
        assert verdict("fcntl", 3, command) == DENY
    for command in (5, 36, 1031):  # who has a lock, of both kinds; larger pipes
        assert verdict("fcntl", 3, command) == DENY
    for command in (0, 1, 2, 3, 4, 1030, 1032):
        assert verdict("fcntl", 3, command) == ALLOW
    for command in (6, 7, 37, 38):
        assert verdict("fcntl", 3, command) == PRETEND
    for advice in (9, 12, 20, 21, 22, 100):  # of which 12 shares pages of the same content with other processes
        assert verdict("madvise", 0, 4096, advice) == 0x50000 | errno.EINVAL
    assert verdict("madvise", 0, 4096, 4) == verdict("madvise", 0, 4096, 102) == ALLOW
    for name in ("sendmsg", "recvmsg"):
        assert verdict(name, 3, 0, 0) == verdict(name, 3, 0, 0x4000, 1) == ALLOW
        assert verdict(name, 3, 0, 1) == DENY
    for name in ("sendto", "recvfrom", "sendmmsg", "recvmmsg"):
        assert verdict(name, 3, 0, 1, 0) == verdict(name, 3, 0, 1, 0x4000) == ALLOW
        assert verdict(name, 3, 0, 1, 1) == verdict(name, 3, 0, 1, 0x4001) == DENY  # out of band
    assert verdict("clone", 0x1200011) == ALLOW  # fork
    assert verdict("clone", 0x3D0F00) == ALLOW  # a thread
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict("clone", flag | 17) == DENY
    assert verdict("clone3") == UNKNOWN
    assert verdict("prlimit64", 0) == ALLOW
    assert verdict("prlimit64", 1) == DENY
    assert verdict("ioctl", 0, 0x5401) == ALLOW
    assert verdict("ioctl", 0, 0x5412) == 0x50000 | errno.ENOTTY  # typing into the terminal
    assert verdict("prctl", 15) == ALLOW
    assert verdict("prctl", 22) == DENY
    assert verdict("kill", 1) == ALLOW
    alone = seccomp.assemble(machine, own_processes_only=77)
    assert verdict("kill", 77, code=alone) == ALLOW
    assert verdict("kill", 78, code=alone) == DENY
    assert verdict("kill", 0xFFFFFFFF, code=alone) == DENY
    assert verdict("chmod" if machine == "x86_64" else "fchmod") == verdict("truncate") == ALLOW
    bare = seccomp.assemble(machine, attributes=False)
    for name in seccomp._ATTRIBUTES:
        assert seccomp._NUMBERS[name][column] is None or verdict(name, code=bare) == DENY
    assert verdict("renameat2") == verdict("unlinkat") == verdict("openat", 0, 0, 0x410000) == ALLOW
    assert verdict("renameat2", code=bare) == verdict("openat", 0, 0, 0x410000, code=bare) == DENY
    assert verdict("openat", 0, 0, 0x241, code=bare) == verdict("unlinkat", 0, 0, 0x200, code=bare) == ALLOW
    assert verdict("unlinkat", code=bare) == DENY
    assert verdict("setsid") == verdict("setpgid") == ALLOW
    assert verdict("setsid", code=alone) == verdict("setpgid", code=alone) == DENY


def test_foreign_architectures_end_the_process_without_a_line_in_the_log():
    code = seccomp.assemble("x86_64")
    assert judge(code, 0, ARCH["aarch64"]) == SIGNAL
    assert judge(code, 0, 0x40000003) == SIGNAL  # i386
    assert judge(code, 0x40000000, ARCH["x86_64"]) == SIGNAL  # x32
