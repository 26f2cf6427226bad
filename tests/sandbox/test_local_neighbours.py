"""What sessions, and the host, could feel of one another through the kernel that they share."""

import asyncio
import os
import platform
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from genprm_trl.sandbox import Limits, LocalSandbox, Session
from genprm_trl.sandbox.guest.linux import NICE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="about Linux")

LOCKS = {  # what one session does to a file of the library, and what another asks
    "flock": "fcntl.flock(h, fcntl.LOCK_EX | fcntl.LOCK_NB)",
    "record": "fcntl.lockf(h, fcntl.LOCK_SH | fcntl.LOCK_NB)",
    "description": "fcntl.fcntl(h, 37, struct.pack('hhqqi4x', 0, 0, 0, 0, 0))",  # F_OFD_SETLK
}
FILL_PIPES = """
import fcntl, os
ends = []
try:
    while True:
        ends.append(os.pipe())
        try: fcntl.fcntl(ends[-1][1], 1031, 1 << 20)
        except OSError: pass
except OSError: pass
print(len(ends))
"""
CHILDREN = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        ends = []
        try:
            while True:
                ends.append(os.pipe())
        except OSError: pass
        time.sleep(60)
time.sleep(1)
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    opened = LocalSandbox(Limits(output=1000))
    yield opened
    asyncio.run(opened.close())


@pytest.fixture
async def pair(sandbox: LocalSandbox) -> AsyncIterator[tuple[LocalSandbox, Session, Session]]:
    async with sandbox.session() as one, sandbox.session() as other:
        yield sandbox, one, other


@pytest.mark.parametrize("kind", LOCKS)
async def test_no_lock_on_a_shared_file_is_seen_by_others(pair: tuple[LocalSandbox, Session, Session], kind: str):
    _, one, other = pair
    take = f"import fcntl, json, struct\nh = open(json.__file__)\n{LOCKS[kind]}\nprint('taken')"
    assert (await one.run(take)).output == "taken"
    assert (await other.run(take)).output == "taken"
    asked = await other.run("print(fcntl.fcntl(h, 5, struct.pack('hhqqi4x', 1, 0, 0, 0, 0)))")  # F_GETLK
    assert asked.output == "Code execute Error: PermissionError: [Errno 1] Operation not permitted"


async def test_pages_of_the_library_stay_in_the_hosts_cache(pair: tuple[LocalSandbox, Session, Session]):
    _, one, _ = pair
    code = (
        "import json, mmap, os\nd = os.open(json.__file__, os.O_RDONLY)\n"
        "os.posix_fadvise(d, 0, 0, os.POSIX_FADV_DONTNEED); os.fsync(d); os.fdatasync(d)\n"
        "m = mmap.mmap(d, 0, prot=mmap.PROT_READ)\n"
        "for advice in (12, 20, 21):\n"
        "    try: m.madvise(advice); print('BREACH', advice)\n"
        "    except OSError: pass\n"
        "print('done')"
    )
    assert (await one.run(code)).output == "done"


FILL_SOCKETS = """
import socket
ends = []
try:
    while True:
        ends.append(socket.socketpair())
        ends[-1][0].setblocking(False)
        try:
            while True: socket.send_fds(ends[-1][0], [b"x"], [0] * 250)
        except OSError: pass
except OSError: pass
"""


@pytest.mark.parametrize("send", ["a.send(b'x', 1)", "a.sendmsg([b'x'], [], 1)", "b.recv(1, 1)", "b.recvmsg(1, 0, 1)"])
async def test_no_data_is_sent_out_of_band(pair: tuple[LocalSandbox, Session, Session], send: str):
    _, one, _ = pair
    result = await one.run("import socket\na, b = socket.socketpair()\n" + send)
    assert result.output == "Code execute Error: PermissionError: [Errno 1] Operation not permitted"
    assert (await one.run("a.send(b'xy'); print(b.recv(9))")).output == "b'xy'"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have users to choose from")
async def test_each_session_of_root_has_a_separate_user(pair: tuple[LocalSandbox, Session, Session]):
    """So that a sibling's quotas (pipes, processes) are its own."""
    _, one, other = pair
    first, second = [(await s.run("import os; print(os.getuid(), os.getgid())")).output for s in (one, other)]
    assert first != second
    assert "0" not in (*first.split(), *second.split())
    assert (await one.run(FILL_PIPES + CHILDREN)).status == "ok"
    assert (await one.run(FILL_SOCKETS)).status == "ok"
    send = "import socket\na, b = socket.socketpair()\nprint(socket.send_fds(a, [b'x'], [0]))"
    assert (await other.run(send)).output == "1"
    size = "import fcntl, os\nr, w = os.pipe()\nprint(fcntl.fcntl(w, 1032))"
    assert (await other.run(size)).output == "65536"


async def test_nothing_names_the_host(pair: tuple[LocalSandbox, Session, Session]):
    sandbox, one, _ = pair
    code = (
        "import platform, sys\nprint(platform.node(), platform.uname().node, sys.orig_argv)\n"
        "f = sys._getframe()\n"
        "while f:\n"
        "    for v in list(f.f_locals.values()):\n"
        "        print(v if isinstance(v, dict) and 'host' in v else '', getattr(v, '_config', ''))\n"
        "    f = f.f_back\n"
    )
    output = (await one.run(code)).output
    assert str(os.getpid()) not in output.split()
    assert "'search'" not in output
    assert "Error" not in output
    if sandbox.protections()["uts_namespace"].holds:
        assert output.startswith("sandbox sandbox ['']")
        assert platform.node() not in output.split()


async def test_the_host_comes_first(pair: tuple[LocalSandbox, Session, Session]):
    """For a core, and last when the kernel kills for memory. A program cannot take that back."""
    sandbox, one, _ = pair
    code = "import os\ntry: os.setpriority(os.PRIO_PROCESS, 0, 0)\nexcept OSError: print('refused')\n"
    assert (await one.run(code + "if os.fork() == 0: import time; time.sleep(9)")).output == "refused"
    mine, launcher = psutil.Process(), psutil.Process(sandbox._start()._process.pid)
    processes = [launcher, *launcher.children(recursive=True)]
    assert len(processes) > 3
    assert {Path(f"/proc/{p.pid}/oom_score_adj").read_text().strip() for p in processes} == {"1000"}  # noqa: ASYNC240
    assert all(p.nice() >= max(NICE, mine.nice()) for p in processes)


DELETED = ["sys.stdout", "sys.stderr", "sys.stdin", "sys.__stdout__", "sys.displayhook", "sys.__displayhook__"]


@pytest.mark.parametrize("name", DELETED)
async def test_what_a_program_deletes_of_sys_is_there_for_the_next_block(sandbox: LocalSandbox, name: str):
    async with sandbox.session() as session:
        result = await session.run(f"import sys\nprint('before')\nkeep = 5\ndel {name}")
        assert (result.status, result.output) == ("ok", "before")
        result = await session.run("print(keep)")
        assert (result.status, result.output) == ("ok", "5")


@pytest.mark.parametrize("text", [r"'\ud800' * 10**6", r"'\ud800\0\r\n\udfff' * 300000", r"'\udcff' * 9000"])
async def test_an_error_is_as_long_as_the_limit_allows(sandbox: LocalSandbox, text: str):
    """Counted once its characters that are none are escaped."""
    async with sandbox.session() as session:
        result = await session.run(f"raise ValueError({text})")
    assert result.status == "error"
    assert len(result.output.encode()) < 1100


CLONED = """
import ctypes, os, time
libc = ctypes.CDLL(None)
for signal in (0, 10, 17, 64):  # what it sends at its end: wait() asks for those of signal 17 only
    if libc.syscall(ctypes.c_long(56), ctypes.c_long(signal), 0, 0, 0, 0) == 0:
        open(f"alive-{signal}", "w").write("x")
        while True:
            try: head = os.read(63, 28)
            except OSError: head = b""
            os.write(63, b"forged")
time.sleep(0.1)
print(len(os.listdir(".")))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="written in x86-64's system call numbers")
@pytest.mark.parametrize("thread", [False, True])
async def test_children_of_any_kind_end_with_their_block(sandbox: LocalSandbox, thread: bool):
    """And so cannot read the next one's request, or answer it."""
    code = CLONED
    if thread:
        code = f"import threading\nt = threading.Thread(target=exec, args=({CLONED!r}, {{}}))\nt.start(); t.join()"
    async with sandbox.session() as session:
        if not sandbox.protections()["pid_namespace"].holds:
            pytest.skip("needs the PID namespace")
        assert (await session.run("x = 1")).status == "ok"
        await session.run(code)
        for number in range(3):
            result = await session.run(f"print({number}, x)")
            assert (result.status, result.output) == ("ok", f"{number} 1")
