"""Processes are made ready while nobody waits for them, as many as sessions will ask for."""

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable

import psutil
import pytest

from genprm_trl.sandbox import LocalSandbox
from genprm_trl.sandbox import spares as spares_module
from tests.helpers.processes import descendants, gone

FEW = max(2, os.cpu_count() or 1)  # ready for sessions that nobody has opened yet


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def threads() -> int:
    return sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate())


class Counted:
    """A sandbox that is started, and how many processes it has for sessions."""

    def __init__(self) -> None:
        self.sandbox = LocalSandbox()
        self._before = descendants()

    async def __aenter__(self) -> "Counted":
        await self.sandbox.__aenter__()
        self._own = len(self.all())  # it forks those of sessions
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sandbox.close()

    def all(self) -> set[int]:
        return descendants() - self._before

    async def has(self, processes: int) -> set[int]:
        """Waits until there are so many processes for sessions, and returns the sandbox's processes."""
        await until(lambda: len(self.all()) == self._own + processes)
        return self.all()


async def test_as_many_as_sessions_wait_for_their_first_block():
    async with Counted() as counted:
        sessions = [counted.sandbox.session() for _ in range(12)]
        ready = await counted.has(12 + FEW)
        results = await asyncio.gather(*(session.run("print(1)") for session in sessions[:5]))
        assert [result.status for result in results] == ["ok"] * 5
        assert counted.all() == ready  # the first blocks have started none
        for session in sessions:  # seven never had a block
            await session.close()
        await counted.has(FEW)


async def test_no_process_before_the_first_session_and_one_is_ready_for_its_first_block():
    before = descendants()
    sandbox = LocalSandbox()
    await asyncio.sleep(0.2)
    assert descendants() == before
    await sandbox.close()
    async with Counted() as counted, counted.sandbox.session() as session:
        ready = await counted.has(1 + FEW)
        assert (await session.run("print(1)")).output == "1"
        assert counted.all() == ready
    assert await gone(ready)


async def test_sessions_that_are_dropped_are_forgotten():
    async with Counted() as counted:
        sessions = [counted.sandbox.session() for _ in range(8)]
        await counted.has(8 + FEW)
        del sessions
        gc.collect()
        async with counted.sandbox.session():
            pass
        await counted.has(FEW)


async def test_there_are_never_too_many(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spares_module, "MOST", 6)
    async with Counted() as counted:
        sessions = [counted.sandbox.session() for _ in range(30)]
        ready = await counted.has(6)
        await asyncio.sleep(0.3)
        assert counted.all() == ready
        results = await asyncio.gather(*(session.run("print(1)") for session in sessions))
        assert [result.output for result in results] == ["1"] * 30
        for session in sessions:
            await session.close()


async def test_ready_processes_that_died_with_what_forks_them_are_not_handed_out():
    mine = {child.pid for child in psutil.Process().children()}
    async with Counted() as counted:
        sessions = [counted.sandbox.session() for _ in range(4)]
        ready = await counted.has(4 + FEW)
        [forks] = {child.pid for child in psutil.Process().children()} - mine
        os.kill(forks, signal.SIGKILL)
        assert await gone(ready - {forks})
        results = await asyncio.gather(*(session.run("print(1)") for session in sessions))
        assert [result.output for result in results] == ["1"] * 4


async def test_closing_while_processes_are_made_leaves_none():
    before, running = descendants(), threads()
    async with Counted() as counted:
        own = counted.all()
        sessions = [counted.sandbox.session() for _ in range(50)]
        await until(lambda: len(counted.all()) > len(own) + 3)
        during = counted.all()
    assert await gone(during)
    await until(lambda: threads() <= running)
    assert descendants() <= before
    assert (await sessions[0].run("print(1)")).status == "sandbox_error"


async def test_a_sandbox_that_nobody_uses_goes_away_without_being_closed():
    before, running = descendants(), threads()

    async def use() -> set[int]:
        sandbox = LocalSandbox()
        async with sandbox.session() as session:
            await session.run("x = 1")
        return descendants() - before

    during = await use()
    assert during
    assert await gone(during)
    await until(lambda: threads() <= running)
