# ruff: noqa: ASYNC220, ASYNC240, ASYNC251
"""What only the embedded sandbox promises: its processes, limits, and what it leaves on the machine."""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from genprm_trl.errors import ConfigError
from genprm_trl.sandbox import Limits, LocalSandbox
from genprm_trl.sandbox.guest.tidy import remove_tree
from genprm_trl.sandbox.local import REQUIRED
from tests.helpers.processes import descendants, gone

STUBBORN = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\nwhile 1: pass"
SHORT = Limits(timeout=0.3, grace=0.3)


@pytest.fixture(scope="module")
def reporting() -> Iterator[LocalSandbox]:
    sandbox = LocalSandbox()
    yield sandbox
    asyncio.run(sandbox.close())


async def test_hard_timeout_ends_the_process_and_replays():
    async with LocalSandbox(SHORT) as sandbox, sandbox.session() as session:
        await session.run("x = 1")
        assert (await session.run(STUBBORN)).status == "timeout"
        assert (await session.run("print(x)")).output == "1"


async def test_soft_timeout_keeps_what_the_block_had_defined():
    async with LocalSandbox(SHORT) as sandbox, sandbox.session() as session:
        assert (await session.run("x = 2\nwhile True: pass")).status == "timeout"
        assert (await session.run("print(x)")).output == "2"


@pytest.mark.serial
async def test_a_session_waits_for_descriptors():
    """Others of this process may have taken all of them for a while."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with LocalSandbox(max_concurrency=1) as sandbox, sandbox.session() as other:
        assert (await other.run("print(2)")).output == "2"
        while sandbox._spares._is_filling:  # noqa: ASYNC110 (it would give descriptors back later)
            await asyncio.sleep(0.01)
        sandbox._spares.clear(closed=True)
        async with sandbox.session() as session:
            with socket.socket() as lowest:
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno(), before[1]))
            try:
                block = asyncio.create_task(session.run("print(1)"))
                await asyncio.sleep(0.3)
                assert not block.done()
                assert (await other.run("print(3)")).output == "3"  # the place of a block is not taken meanwhile
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            assert (await block).output == "1"


async def test_without_replay_the_namespace_is_new():
    async with LocalSandbox(replay=False) as sandbox, sandbox.session() as session:
        await session.run("x = 1")
        await session.run("import os; os._exit(0)")
        assert "NameError" in (await session.run("print(x)")).output


@pytest.mark.parametrize(
    "code",
    [
        "x = bytearray(1 << 34)",
        "x = []\nwhile True: x.append(bytearray(1 << 22))",
        "import numpy; x = numpy.ones(1 << 32)",
        "x = 'a' * (1 << 34)",
        "import mmap; x = mmap.mmap(-1, 1 << 34)",
    ],
)
async def test_memory_limit(code: str):
    async with LocalSandbox(Limits(memory=256 << 20)) as sandbox, sandbox.session() as session:
        result = await session.run(code)
        assert result.status == "memory"
        assert (await session.run("print('alive')")).output == "alive"


async def test_processor_time_limit():
    async with LocalSandbox(Limits(timeout=40, cpu=1)) as sandbox, sandbox.session() as session:
        result = await session.run("while True: pass")
        assert result.status == "timeout"
        assert result.message == "processor time used up"


async def test_files_stay_inside_and_are_limited(tmp_path: Path):
    async with LocalSandbox(Limits(file_size=1 << 20)) as sandbox, sandbox.session() as session:
        assert (await session.run("open('a', 'w').write('hi'); print(open('a').read())")).output == "hi"
        assert (await session.run("open('b', 'wb').write(bytes(1 << 21))")).status == "error"
        assert (await session.run(f"open({str(tmp_path / 'c')!r}, 'w')")).status == "error"
    assert list(tmp_path.iterdir()) == []


async def test_no_descriptor_is_inherited(tmp_path: Path):
    secret = (tmp_path / "secret").open("w+")
    os.set_inheritable(secret.fileno(), True)
    code = "import os\nfor i in range(256):\n try: os.fstat(i); print(i, end=' ')\n except OSError: pass"
    async with LocalSandbox() as sandbox, sandbox.session() as session:
        output = (await session.run(code)).output
    assert output == "0 1 2 62 63"  # standard streams, the capture file and the channel


async def test_more_sessions_open_than_a_session_may_have_descriptors():
    async with LocalSandbox() as sandbox:
        sessions = [sandbox.session() for _ in range(80)]
        results = await asyncio.gather(*(s.run(f"x = {i}; print(x)") for i, s in enumerate(sessions)))
        assert [r.output for r in results] == [str(i) for i in range(80)]
        results = await asyncio.gather(*(s.run("print(x)") for s in sessions))
        assert [r.output for r in results] == [str(i) for i in range(80)]
        for session in sessions:
            await session.close()


async def test_forked_children_end_with_the_block():
    code = "import os, time\npid = os.fork()\nif not pid:\n while True: time.sleep(1)\nprint(pid)"
    async with LocalSandbox() as sandbox, sandbox.session() as session:
        assert (await session.run(code)).status == "ok"
        assert (await session.run("print(1)")).output == "1"


async def test_a_thread_that_outlives_its_block_does_not_write_into_the_next():
    code = (
        "import threading, time\n"
        "def f():\n while True: print('stray'); time.sleep(0.01)\n"
        "threading.Thread(target=f).start()"
    )
    async with LocalSandbox() as sandbox, sandbox.session() as session:
        assert (await session.run(code)).status == "ok"
        assert (await session.run("import time; time.sleep(0.2); print('mine')")).output == "mine"


async def test_from_several_loops_and_threads():
    outputs: list[str] = []
    async with LocalSandbox() as sandbox:

        async def use(number: int) -> None:
            async with sandbox.session() as session:
                await session.run(f"x = {number}")
                outputs.append((await session.run("print(x)")).output)

        async def several(number: int) -> None:
            await asyncio.gather(*(use(number + i) for i in range(5)))

        threads = [threading.Thread(target=lambda n=n: asyncio.run(several(n))) for n in range(0, 20, 5)]
        for thread in threads:
            thread.start()
        await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    assert sorted(outputs, key=int) == [str(n) for n in range(20)]


async def test_cancelled_block_loses_the_process_not_the_session():
    async with LocalSandbox() as sandbox, sandbox.session() as session:
        await session.run("x = 1")
        task = asyncio.create_task(session.run("import time; time.sleep(4)"))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await session.run("print(x)")).output == "1"


async def test_nothing_is_left_behind():
    before, descriptors = descendants(), psutil.Process().num_fds()
    async with LocalSandbox() as sandbox:
        directory = sandbox._start().directory
        for _ in range(20):
            async with sandbox.session() as session:
                await session.run("x = 1")
        during = descendants() - before
        assert during
    assert await gone(during)
    assert psutil.Process().num_fds() <= descriptors + 2  # the event loop's helper thread may have come up
    assert not Path(directory).exists()


async def test_the_zygotes_death_is_survived():
    async with LocalSandbox() as sandbox, sandbox.session() as session:
        await session.run("x = 1")
        os.kill(sandbox._start()._process.pid, signal.SIGKILL)
        result = await session.run("print(x)")
        if result.status == "sandbox_error":  # noticed while the block ran
            result = await session.run("print(x)")
        assert result.output == "1"


async def test_everything_dies_with_a_killed_host():
    program = (
        "import asyncio\nfrom genprm_trl.sandbox import LocalSandbox\n"
        "async def main():\n"
        "    sandbox = LocalSandbox()\n    session = sandbox.session()\n    await session.run('x = 1')\n"
        "    print(sandbox._start().directory, flush=True)\n"
        "    await session.run('while True: pass')\n"
        "asyncio.run(main())\n"
    )
    host = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    directory = host.stdout.readline().strip()
    time.sleep(0.2)
    children = {p.pid for p in psutil.Process(host.pid).children(recursive=True)}
    assert children
    host.kill()
    host.wait()
    host.stdout.close()
    assert await gone(children)
    assert not Path(directory).exists()


def test_requirements_are_checked():
    with pytest.raises(ConfigError, match="nonsense"):
        LocalSandbox(required=("nonsense",)).protections()


def test_files_and_network_are_out_of_reach_by_default():
    held = LocalSandbox().protections()
    assert REQUIRED == ("separate_process", "limits", "no_network", "files")
    assert all(held[name].holds for name in REQUIRED)


@pytest.mark.parametrize("options", [{"max_concurrency": 0}, {"seed": -1}, {"seed": 1 << 32}])
def test_options_are_checked(options: dict[str, int]):
    with pytest.raises(ConfigError, match=next(iter(options))):
        LocalSandbox(**options)  # type: ignore[arg-type]


PROBES = {  # what must come out inside where a protection holds
    "unprivileged_user": ("import os; print(os.getuid() != 0)", "True"),
    "pid_namespace": ("import os; print(os.getpid(), os.getppid())", "1 0"),
    "uts_namespace": ("import os; print(os.uname().nodename)", "sandbox"),
    "hidden_root": ("import os; print([p for p in ('/proc', '/sys', '/etc', '/home') if os.path.exists(p)])", "[]"),
    "private_tmp": ("import os; s = os.statvfs('.'); print(os.listdir('.'), s.f_blocks * s.f_frsize)", "[] 67108864"),
    "empty_environment": ("import os; print(dict(os.environ))", "{}"),
    "limits": (
        "import resource as r; print([r.getrlimit(x)[0] for x in (r.RLIMIT_CORE, r.RLIMIT_NOFILE, r.RLIMIT_FSIZE)])",
        "[0, 64, 67108864]",
    ),
    "no_network": ("import socket\ntry: socket.socket()\nexcept PermissionError: print('refused')", "refused"),
    "no_new_privs": ("import ctypes; print(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))", "1"),
    "no_capabilities": (
        "import ctypes; c = ctypes.CDLL(None); print(sum(c.prctl(23, n, 0, 0, 0) for n in range(38)))",
        "0",
    ),
    "seccomp": ("import ctypes; print(ctypes.CDLL(None).prctl(21, 0, 0, 0, 0))", "2"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBES)
async def test_what_is_reported_holds_inside(reporting: LocalSandbox, name: str):
    if not reporting.protections()[name].holds:
        pytest.skip("not in force here")
    code, expected = PROBES[name]
    async with reporting.session() as session:
        assert (await session.run(code)).output == expected


def test_landlock_holds_without_the_other_layers(tmp_path: Path):
    """In a separate process, so that nothing but Landlock can be what refuses."""
    from genprm_trl.sandbox.guest import landlock

    try:
        landlock.version()
    except OSError as error:
        pytest.skip(str(error))
    (tmp_path / "own").mkdir()
    (tmp_path / "secret").write_text("x")
    code = (
        "import os, sys\nsys.path.insert(0, sys.argv[1])\nfrom guest import landlock, linux\n"
        "linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)\n"
        "landlock.restrict(('/usr/lib',), ('/dev/null',), sys.argv[2] + '/own')\n"
        "print(len(os.listdir('/usr/lib')) > 0)\nopen('/dev/null', 'w').write('x')\n"
        "os.mkdir(sys.argv[2] + '/own/d'); open(sys.argv[2] + '/own/d/f', 'w').write('x')\n"
        "for path in ('/secret', '/new', '/own/../secret', '/own/d/../../secret'):\n"
        "    for mode in ('r', 'w'):\n"
        "        try: open(sys.argv[2] + path, mode); print('BREACH', path, mode)\n"
        "        except OSError: pass\n"
        "for path in ('/etc/passwd', '/proc/self/environ', '/proc/1/status', '/sys/kernel'):\n"
        "    try: os.open(path, os.O_RDONLY); print('BREACH', path)\n"
        "    except OSError: pass\n"
    )
    guest = str(Path(landlock.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code, guest, str(tmp_path)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
    assert (tmp_path / "secret").read_text() == "x"


def test_remains_of_any_shape_are_removed(tmp_path: Path):
    """Deeper than recursion and paths go, closed, and with links out."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    remains = tmp_path / "remains"
    remains.mkdir()
    (remains / ".0").mkdir()  # a name that the removal might choose itself
    where = os.open(remains, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=where)
        os.symlink(outside, "link", dir_fd=where)
        os.mkfifo("fifo", dir_fd=where)
        deeper = os.open("d", os.O_RDONLY, dir_fd=where)
        os.close(where)
        where = deeper
    os.fchmod(where, 0)
    os.close(where)
    remove_tree(str(remains))
    assert not remains.exists()
    assert (outside / "kept").read_text() == "x"
    remove_tree(str(remains))  # not there: no error


def test_import_is_light():
    code = "import sys, genprm_trl.sandbox; print({'torch', 'numpy', 'sympy', 'transformers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
