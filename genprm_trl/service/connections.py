"""Connections of clients: how many are taken, how long one may say nothing, and what the log says of a flood."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger(__name__)

# Of a process with so many descriptors, connections take at most the half below, and at most so many.
_MOST_DESCRIPTORS = 8192
# How asyncio names that it has no descriptor for a connection; it tries again a second later.
_NO_DESCRIPTOR = "socket.accept() out of system resource"


def raise_descriptor_limit() -> int:
    """Lets this process have as many descriptors as the system lets it ask for.

    Returns:
        The limit that now holds.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS names a hard limit that it does not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Listener(socket.socket):
    """A listening socket that leaves half of the process's descriptors to the sandbox, the engine and files.

    A connection beyond that is closed at once, whoever it comes from; a client tries again.
    """

    def accept(self) -> tuple[socket.socket, Any]:
        """Takes the next connection.

        Raises:
            ConnectionAbortedError: There is no room for it, and it was closed.
        """
        connection, address = super().accept()
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The system gives the lowest number that is free, so all numbers below are taken.
        if connection.fileno() < min(soft // 2, _MOST_DESCRIPTORS):
            return connection, address
        connection.close()
        logger.warning("a connection was closed at once: descriptors are kept for the sandbox (ulimit -n is %d)", soft)
        raise ConnectionAbortedError


class Connection(H11Protocol):
    """A client's connection, closed if the head of a request does not arrive in time.

    uvicorn itself closes only connections that stay silent after an answer.
    """

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a new connection."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Takes what has arrived."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets a connection that has ended."""
        super().connection_lost(exc)
        if self._waiting is not None:
            self._waiting.cancel()

    def shutdown(self) -> None:
        """Ends the connection if nothing is in progress on it, and otherwise after that."""
        super().shutdown()
        if self._is_idle and not self.transport.get_write_buffer_size():
            self.transport.abort()  # with TLS, a mere close waits for the client's farewell

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        """Sets the time for a head once, so that one that comes drop by drop does not gain any."""
        if not self._is_idle:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None
        elif self._waiting is None:
            seconds = self.config.app.state.service.limits.head_seconds  # type: ignore[union-attr]
            self._waiting = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        self._waiting = None
        if self._is_idle:
            self.transport.abort()


def handle_loop_errors(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Says in one line that there was no descriptor for a connection; all else goes to asyncio's own handler."""
    if context.get("message") == _NO_DESCRIPTOR:
        logger.warning("no connection can be taken for a second: %s", context.get("exception"))
    else:
        loop.default_exception_handler(context)


class SeldomFilter(logging.Filter):
    """Lets a message through once in a while, with the number of its repetitions since.

    For messages that a stranger can cause without end.

    Args:
        seconds: Seconds for which a message that has been shown is only counted.
    """

    def __init__(self, seconds: float = 60.0):
        super().__init__()
        self._seconds = seconds
        self._shown: dict[tuple[str, str], tuple[float, int]] = {}  # when, and how often since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown; it then says how many were not."""
        now = time.monotonic()
        message = (record.name, str(record.msg).partition("\n")[0])
        when, left_out = self._shown.get(message, (float("-inf"), 0))
        if now - when < self._seconds:
            self._shown[message] = when, left_out + 1
            return False
        if len(self._shown) >= 1000:
            self._shown.clear()
        self._shown[message] = now, 0
        if left_out:
            record.msg = f"{record.msg} ({left_out:,} more since the last such line)"
        return True


def quieten_floods() -> None:
    """Lets messages about connections, which strangers can cause, show once a minute."""
    seldom = SeldomFilter()
    for name in (__name__, "uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(seldom)
