"""A semaphore that is fair and belongs to no event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque


class FairGate:
    """Lets `limit` holders in at once, first come first served, from any number of event loops and threads.

    `asyncio.Semaphore` binds itself to the first loop that waits on it; a sandbox is shared by loops of several
    threads.
    """

    def __init__(self, limit: int):
        self._free = limit
        self._lock = threading.Lock()
        self._waiting: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()

    async def __aenter__(self) -> None:
        with self._lock:
            if self._free > 0 and not self._waiting:
                self._free -= 1
                return
            loop = asyncio.get_running_loop()
            turn = loop.create_future()
            entry = (loop, turn)
            self._waiting.append(entry)
        try:
            await turn
        except BaseException:  # cancelled, or thrown away with its loop
            with self._lock:
                waiting = entry in self._waiting
                if waiting:
                    self._waiting.remove(entry)
            if not waiting:
                self._leave()  # the turn was already ours
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        with self._lock:
            while self._waiting:
                loop, turn = self._waiting.popleft()
                try:
                    loop.call_soon_threadsafe(_wake, turn)
                    return
                except RuntimeError:
                    continue  # its loop was closed while it waited
            self._free += 1


def _wake(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
