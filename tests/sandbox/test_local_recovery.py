"""What a session's blocks get after one that broke its process, or after the machine did."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Iterator

import psutil
import pytest

from genprm_trl.sandbox import Limits, LocalSandbox, Session

LIMITS = Limits(timeout=2.0, grace=1.0)
ANSWER = """
import os, struct, sys
frame = sys._getframe()
while frame and "nonce" not in frame.f_locals: frame = frame.f_back
os.write(63, struct.pack("<16sBdI", frame.f_locals["nonce"], 0, 0.0, 2) + b"ok")
"""
DOOMED = (
    "import threading, os, time\nthreading.Thread(target=lambda: (time.sleep({}), os._exit(1))).start()\nprint('fine')"
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    opened = LocalSandbox(LIMITS)
    yield opened
    asyncio.run(opened.close())


@pytest.fixture
async def session(sandbox: LocalSandbox) -> AsyncIterator[Session]:
    async with sandbox.session() as opened:
        yield opened


def used(seconds: float) -> float:
    """Processor time that all processes below this one use in a while."""

    def total() -> float:
        times = [p.cpu_times() for p in psutil.Process().children(recursive=True)]
        return sum(t.user + t.system for t in times)

    before = total()
    time.sleep(seconds)
    return total() - before


@pytest.mark.parametrize("delay", [0.05, 0.2])
@pytest.mark.parametrize("pause", [0.0, 0.3])
async def test_a_block_that_dooms_its_session_takes_no_other_along(session: Session, delay: float, pause: float):
    assert (await session.run(DOOMED.format(delay))).output == "fine"
    for number in range(3):
        await asyncio.sleep(pause)
        result = await session.run(f"import time; time.sleep(0.3); print({number})")
        assert (result.status, result.output) == ("ok", str(number))


async def test_a_session_that_is_found_dead_twice_starts_empty(session: Session):
    await session.run("x = 1")
    await session.run(DOOMED.format(0.02))
    for _ in range(3):
        deadline = time.monotonic() + 5
        while session._worker is None or (session._worker.idle and time.monotonic() < deadline):
            await asyncio.sleep(0.01)
            session._worker._zygote.wake(session._worker._key)
        result = await session.run("print('x' in globals())")
        assert result.status == "ok"
        if result.output == "False":
            break
    assert result.output == "False"
    assert "forgotten" in result.message


async def test_a_block_that_ends_its_process_costs_no_names(session: Session):
    await session.run("import os\ndef end(): os._exit(1)\nx = 1")
    for code in ("os._exit(1)", "end()", "import os; os._exit(1)"):
        assert (await session.run(code)).status == "killed"
    assert (await session.run("print(x)")).output == "1"


@pytest.mark.parametrize("pause", [0.0, 1.5])
async def test_what_goes_on_after_its_answer_is_not_the_next_blocks_fault(session: Session, pause: float):
    await session.run(ANSWER + "while True: pass")
    await asyncio.sleep(pause)
    result = await session.run("print('mine')")
    assert (result.status, result.output) == ("ok", "mine")


LEFT = {
    "threads": (
        "import threading, hashlib\ndef f():\n d = bytes(1 << 20)\n while True: hashlib.sha256(d).digest()\n"
        "for _ in range(6): threading.Thread(target=f, daemon=True).start()"
    ),
    "answered": ANSWER + "while True: pass",
    "children": ANSWER + "for _ in range(3):\n if os.fork() == 0:\n  while True: pass\nwhile True: pass",
    "daemons": ANSWER + "if os.fork() == 0:\n if os.fork() == 0:\n  os.setsid()\n  while True: pass\n os._exit(0)\n"
    "os.wait()\nwhile True: pass",
}  # fmt: skip


@pytest.mark.parametrize("kind", LEFT)
async def test_nothing_runs_between_blocks(session: Session, kind: str):
    await session.run("x = 1")
    await session.run(LEFT[kind])
    time.sleep(0.5)  # noqa: ASYNC251 - the host may be busy with something else than its event loop
    assert used(1.0) < 0.5
    result = await session.run("print('mine')")
    assert (result.status, result.output) == ("ok", "mine")


async def test_a_thread_goes_on_with_the_next_block(session: Session):
    code = "import threading, time\nn = 0\ndef f():\n global n\n while True: n += 1; time.sleep(0.01)\n"
    await session.run(code + "threading.Thread(target=f, daemon=True).start()")
    await asyncio.sleep(0.3)
    result = await session.run("a = n; time.sleep(0.3); print(n > a)")
    assert (result.status, result.output) == ("ok", "True")


async def test_replays_take_no_longer_than_a_block(session: Session):
    for _ in range(3):
        assert (await session.run("import time; time.sleep(1.3)")).status == "ok"
    await session.run("import os; os._exit(1)")
    assert (await session.run("print(1)")).output == "1"
    assert session._replayed < 1.5 * LIMITS.timeout  # of three that take 3.9 s


async def test_names_that_are_gone_are_told_of(session: Session, caplog: pytest.LogCaptureFixture):
    for name in "ab":
        assert (await session.run(f"import time; time.sleep(1.3); {name} = 1")).status == "ok"
    result = await session.run("import os; os._exit(1)")
    assert result.status == "killed"
    assert "earlier blocks of the session are forgotten" in result.message
    assert "earlier blocks of the session are forgotten" in caplog.text
    result = await session.run("print('a' in globals())")
    assert (result.status, result.output, result.message) == ("ok", "False", "")


async def test_names_are_gone_where_nothing_runs_again():
    async with LocalSandbox(LIMITS, replay=False) as sandbox, sandbox.session() as session:
        assert (await session.run("x = 1")).message == ""
        assert "forgotten" in (await session.run("import os; os._exit(1)")).message
        assert (await session.run("print('x' in globals())")).output == "False"


async def test_what_a_block_did_before_it_raised_is_there_in_a_new_process(session: Session):
    assert (await session.run("a = 1\n1/0")).status == "error"
    assert (await session.run("b = 2\nx = bytes(1 << 45)")).status == "memory"
    assert (await session.run("import os; os._exit(1)")).status == "killed"
    assert (await session.run("print(a + b)")).output == "3"


def workers() -> list[psutil.Process]:
    """The processes of sessions, and those that are ready for more."""
    found, host = [], psutil.Process()
    for process in host.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += [process] if not process.children() and process.ppid() != host.pid else []
    return found


@pytest.mark.parametrize("whom", ["worker", "all"])
async def test_a_block_that_the_machine_ended_is_run_again(sandbox: LocalSandbox, session: Session, whom: str):
    await session.run("x = 1")
    block = asyncio.create_task(session.run("import time; time.sleep(0.5); y = x + 1; print(y)"))
    await asyncio.sleep(0.2)
    for process in workers() if whom == "worker" else [psutil.Process(sandbox._start()._process.pid)]:
        process.send_signal(signal.SIGKILL)
    result = await block
    assert (result.status, result.output) == ("ok", "2")
    assert (await session.run("print(x, y)")).output == "1 2"


@pytest.fixture
async def watched(sandbox: LocalSandbox, session: Session) -> Session:
    """A session whose process only the machine can kill."""
    if not sandbox.protections()["pid_namespace"].holds:
        pytest.skip("a process can kill itself, so that is the program's doing")
    return session


def lose() -> None:
    found = workers()
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(found, 5)


async def test_what_the_machine_ended_runs_again_in_full(watched: Session):
    """However often, and though the blocks take longer together than one may."""
    for name in "ab":
        assert (await watched.run(f"import time; time.sleep(1.2); {name} = 1")).status == "ok"
    for _ in range(3):
        lose()
        result = await watched.run("print(a + b)")
        assert (result.status, result.output, result.message) == ("ok", "2", "")


async def test_what_the_machine_ended_and_cannot_run_again_is_no_evidence(watched: Session):
    """It would be a NameError, for which the program is not to blame."""
    assert (await watched.run("a = 1\nwhile True: pass")).status == "timeout"
    assert (await watched.run("print(a)")).output == "1"
    lose()
    for _ in range(2):
        result = await watched.run("print(a)")
        assert (result.status, result.output) == ("sandbox_error", "")
        assert "could not all run again" in result.message


async def test_a_lost_block_is_there_for_the_next():
    """Where it could not be run a second time either, its status says so, and its names are not lost."""
    async with LocalSandbox(Limits(timeout=10)) as sandbox, sandbox.session() as session:
        if not sandbox.protections()["pid_namespace"].holds:
            pytest.skip("a process can kill itself, so that is the program's doing")
        await session.run("x = 1")
        block = asyncio.create_task(session.run("import time; time.sleep(2); y = x + 1; print(y)"))
        while not block.done():
            await asyncio.sleep(0.05)
            for process in workers():
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
        assert block.result().status == "sandbox_error"
        assert block.result().message
        assert (await session.run("print(x, y)")).output == "1 2"


async def test_dead_spares_are_passed_over():
    async with LocalSandbox(LIMITS) as sandbox:
        async with sandbox.session() as session:
            await session.run("x = 1")
        await asyncio.sleep(0.5)
        spares = workers()
        assert len(spares) >= 2
        for process in spares:
            process.send_signal(signal.SIGKILL)
        await asyncio.sleep(0.1)
        sessions = [sandbox.session() for _ in range(4)]
        results = await asyncio.gather(*(s.run("print(1)") for s in sessions))
        assert [(r.status, r.output) for r in results] == [("ok", "1")] * 4
        for opened in sessions:
            await opened.close()


async def test_a_changed_harness_lies_about_its_own_session_alone(sandbox: LocalSandbox, session: Session):
    """As a program can redefine print: what later blocks of a session report may be an earlier one's."""
    code = (
        "import sys\nf = sys._getframe()\n"
        "while f:\n"
        "    w = f.f_locals.get('self')\n"
        "    if type(w).__name__ == 'Worker': w._run = lambda code, seconds: ('ok', 'FORGED')\n"
        "    f = f.f_back\n"
        "print('patched')"
    )
    async with sandbox.session() as sibling:
        await sibling.run("x = 7")
        assert (await session.run(code)).output == "patched"
        assert (await session.run("print('mine')")).output == "mine"  # it looked its methods up before
        assert (await session.run("while True: pass")).status == "timeout"
        assert (await sibling.run("print(x)")).output == "7"
    async with sandbox.session() as fresh:
        assert (await fresh.run("print(8)")).output == "8"


async def test_a_new_process_shows_the_same_world(sandbox: LocalSandbox):
    async with sandbox.session(as_published=True) as session:
        await session.run("class A: pass")
        assert (await session.run("import os; os._exit(1)")).status == "killed"
        assert (await session.run("print(__name__, A)")).output == "builtins <class 'A'>"
    async with sandbox.session() as session:
        assert (await session.run("print(__name__)")).output == "__main__"
