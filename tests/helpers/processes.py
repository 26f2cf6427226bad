"""Which processes there are below this one, and when they are gone."""

import asyncio
import time

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
