"""Which processes there are below one, when they are gone, and their end."""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil


def descendants() -> set[int]:
    return {p.pid for p in psutil.Process().children(recursive=True)}


async def gone(pids: set[int], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(psutil.pid_exists(p) for p in pids):
            return True
        await asyncio.sleep(0.02)
    return False


def family(pid: int) -> list[psutil.Process]:
    """A process and those below it, in whatever sessions they are."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
