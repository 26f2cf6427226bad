"""Connections of clients: how many are taken, how long one may say nothing, and what the log says of a flood."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
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

    Where connections have taken their half, the one that has been idle for longest makes room for the next.

    Attributes:
        idle: The connections on which no request is in progress, those that are idle for longest first.
    """

    idle: dict[Connection, None] | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        """Takes the next connection.

        Raises:
            ConnectionAbortedError: It is to be taken in the event loop's next turn, when there is room; or there will
                be none, and it was closed.
        """
        if not self._is_full():
            return super().accept()
        logger.warning("idle connections are closed, and descriptors kept for the sandbox (see ulimit -n)")
        if self.idle:
            next(iter(self.idle)).give_up()
        else:
            super().accept()[0].close()
        raise ConnectionAbortedError

    def _is_full(self) -> bool:
        try:
            # The system gives the lowest number that is free, so all numbers below are taken.
            number = os.dup(self.fileno())
        except OSError:
            return True
        os.close(number)
        return number >= min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2, _MOST_DESCRIPTORS)


class Connection(H11Protocol):
    """A client's connection, closed if the head of a request does not arrive in time.

    uvicorn itself closes only connections that stay silent after an answer.

    Args:
        idle: Where it stands while no request is in progress on it; see `Listener`.
        head_seconds: Seconds for the head of a request, from when it could have begun.
        arguments: Those of uvicorn.
    """

    def __init__(self, *, idle: dict[Connection, None], head_seconds: float, **arguments: Any):
        super().__init__(**arguments)
        self._idle, self._head_seconds = idle, head_seconds
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a new connection."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Takes what has arrived."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Goes on to the next request."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets a connection that has ended."""
        super().connection_lost(exc)
        self._forget()

    def shutdown(self) -> None:
        """Ends the connection if nothing is in progress on it, and otherwise after that."""
        super().shutdown()
        if self._is_idle and not self.transport.get_write_buffer_size():
            self.transport.abort()  # with TLS, a mere close waits for the client's farewell

    def give_up(self) -> None:
        """Ends an idle connection."""
        self._forget()
        self.transport.abort()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        """Sets the time for a head once, so that one that comes drop by drop does not gain any."""
        if not self._is_idle or self.transport.is_closing():
            self._forget()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._head_seconds, self.give_up)
            self._idle[self] = None

    def _forget(self) -> None:
        self._idle.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


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
