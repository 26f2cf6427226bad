"""Processes are made ready while nobody waits for them, as many as sessions will ask for."""

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable

import pytest

from genprm_trl.sandbox import LocalSandbox
from genprm_trl.sandbox import spares as spares_module
from tests.helpers.processes import descendants, gone

pytestmark = pytest.mark.serial


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def no_thread() -> bool:
    return not any(thread.name == "genprm-sandbox-spares" for thread in threading.enumerate())


def ready(sandbox: LocalSandbox) -> int:
    return len(sandbox._spares._ready)


async def test_as_many_as_sessions_wait_for_their_first_block():
    async with LocalSandbox() as sandbox:
        sessions = [sandbox.session() for _ in range(12)]
        few = sandbox._spares._few
        await until(lambda: ready(sandbox) == 12 + few)
        results = await asyncio.gather(*(session.run("import os; print(os.getpid())") for session in sessions[:5]))
        assert [result.status for result in results] == ["ok"] * 5
        await until(lambda: ready(sandbox) == 7 + few)
        for session in sessions:  # seven never had a block
            await session.close()
        await until(lambda: ready(sandbox) == few)


async def test_no_process_before_the_first_session_and_the_first_block_waits_for_no_import():
    before = descendants()
    sandbox = LocalSandbox()
    await asyncio.sleep(0.2)
    assert descendants() == before
    async with asyncio.timeout(60), sandbox.session() as session:
        await until(lambda: ready(sandbox) > 0)
        begun = sandbox._start()  # is running by now
        assert (await session.run("print(1)")).output == "1"
        assert sandbox._start() is begun
    after = descendants() - before
    await sandbox.close()
    assert await gone(after)


async def test_sessions_that_are_dropped_are_forgotten():
    async with LocalSandbox() as sandbox:
        sessions = [sandbox.session() for _ in range(8)]
        await until(lambda: ready(sandbox) == 8 + sandbox._spares._few)
        del sessions
        gc.collect()
        async with sandbox.session():
            pass
        assert ready(sandbox) == sandbox._spares._few


async def test_there_are_never_too_many(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spares_module, "MOST", 6)
    async with LocalSandbox() as sandbox:
        sessions = [sandbox.session() for _ in range(30)]
        await until(lambda: ready(sandbox) == 6)
        await asyncio.sleep(0.3)
        assert ready(sandbox) == 6
        results = await asyncio.gather(*(session.run("print(1)") for session in sessions))
        assert [result.output for result in results] == ["1"] * 30
        for session in sessions:
            await session.close()


async def test_ready_processes_that_died_with_their_zygote_are_not_handed_out():
    async with LocalSandbox() as sandbox:
        sessions = [sandbox.session() for _ in range(4)]
        await until(lambda: ready(sandbox) == 4 + sandbox._spares._few)
        zygote = sandbox._start()
        os.kill(zygote._process.pid, signal.SIGKILL)
        await until(lambda: not zygote.alive)
        results = await asyncio.gather(*(session.run("print(1)") for session in sessions))
        assert [result.output for result in results] == ["1"] * 4


async def test_closing_while_processes_are_made_leaves_none():
    before = descendants()
    sandbox = LocalSandbox()
    sessions = [sandbox.session() for _ in range(50)]
    await until(lambda: ready(sandbox) > 3)
    during = descendants() - before
    await sandbox.close()
    assert await gone(during)
    await until(no_thread)
    assert ready(sandbox) == 0
    assert descendants() <= before
    assert (await sessions[0].run("print(1)")).status == "sandbox_error"


async def test_a_sandbox_that_nobody_uses_goes_away_without_being_closed():
    before = descendants()

    async def use() -> set[int]:
        sandbox = LocalSandbox()
        async with sandbox.session() as session:
            await session.run("x = 1")
        await until(lambda: ready(sandbox) == sandbox._spares._few)
        return descendants() - before

    during = await use()
    assert during
    await until(no_thread)
    assert await gone(during)
