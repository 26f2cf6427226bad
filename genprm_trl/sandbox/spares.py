"""Processes that are made ready before a session asks for one."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable

from genprm_trl.sandbox.process import Worker, Zygote

logger = logging.getLogger(__name__)

# Ready processes at most. They cost memory, and a burst of more first blocks than these is met by as many again soon.
MOST = 256


class Spares:
    """Keeps as many processes ready as sessions are waiting for their first block, and a few more.

    Starting one takes milliseconds, in which the program that runs a session's first block would wait: many sessions
    that begin together would wait for all of them. A thread starts them one by one, and ends once there are enough.

    Args:
        start: A weak reference to what gives the running zygote, so that a sandbox that nobody uses goes away.
        few: Processes to keep ready for sessions that nobody has announced.
    """

    def __init__(self, start: weakref.WeakMethod[Callable[[], Zygote]], few: int):
        self._start, self._few = start, few
        self._lock = threading.Lock()
        self._ready: deque[Worker] = deque()
        self._waiting: weakref.WeakSet[object] = weakref.WeakSet()
        self._is_filling = self._closed = False

    def expect(self, session: object) -> None:
        """Announces a session. One that is dropped is forgotten."""
        with self._lock:
            self._waiting.add(session)
        self._fill()

    def take(self, session: object) -> Worker | None:
        """A process for the session, if one is left that has not ended since it was made ready."""
        dead: list[Worker] = []
        with self._lock:
            self._waiting.discard(session)
            while (worker := self._ready.popleft() if self._ready else None) and not worker.idle:
                dead.append(worker)
        for each in dead:
            each.close()
        self._fill()
        return worker

    def forget(self, session: object) -> None:
        """Takes an announcement back."""
        with self._lock:
            self._waiting.discard(session)
            surplus = [self._ready.popleft() for _ in range(-self._missing)]
        for worker in surplus:
            worker.close()

    def clear(self, *, closed: bool = False) -> None:
        """Ends all processes that are ready; with `closed`, none are made ready any more."""
        with self._lock:
            self._closed = closed
            self._is_filling = False  # in a forked child, which has no such thread
            workers, self._ready = self._ready, deque()
        for worker in workers:
            worker.close()

    @property
    def _missing(self) -> int:
        """Processes to make ready; below 0, those that are too many. To be asked for with the lock held."""
        wanted = 0 if self._closed else min(MOST, self._few + len(self._waiting))
        return wanted - len(self._ready)

    def _fill(self) -> None:
        with self._lock:
            if self._is_filling or self._missing <= 0:
                return
            self._is_filling = True
        threading.Thread(target=self._run, name="genprm-sandbox-spares", daemon=True).start()

    def _run(self) -> None:
        try:
            # A loop that gets no descriptors writes to stderr when it is thrown away, and would do so again and again.
            for end in [*socket.socketpair(), *socket.socketpair()]:
                end.close()
            asyncio.run(self._make())
        except Exception as error:  # a session that needs a process will meet it, too, and say so
            logger.debug("no process made ready: %s", error)
            with self._lock:
                self._is_filling = False

    async def _make(self) -> None:
        while (start := self._start()) is not None:
            zygote = start()
            del start
            worker = zygote.spawn()
            try:
                await worker.ready()
            except BaseException:
                worker.close()
                raise
            with self._lock:
                is_wanted = zygote.alive and self._missing > 0
                if is_wanted:
                    self._ready.append(worker)
                is_done = self._missing <= 0
                if is_done:
                    self._is_filling = False
            if not is_wanted:
                worker.close()
            if is_done:
                return
