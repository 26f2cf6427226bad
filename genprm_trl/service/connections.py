"""Connections of clients: how many are taken, how long one may say nothing, and what the log says of a flood."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import select
import socket
import time
import weakref
from typing import Any, TypeAlias

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from genprm_trl.service.errors import ServiceRefusal
from genprm_trl.service.limits import ServiceLimits

logger = logging.getLogger(__name__)

# What may be closed, by descriptor, those that are idle for longest first.
Idle: TypeAlias = "dict[int, Connection | _Accepted]"
# The logger of requests that anybody can send and have refused.
REFUSED = f"{__package__}.refused"

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
    """A listening socket that bounds connections and leaves half of the process's descriptors to the rest of it.

    Where there are too many, the one that has been idle for longest makes room for the next. If none is idle, the next
    gets status 503, or is closed where descriptors run short.

    Attributes:
        most: Most connections.
        idle: Connections whose client says nothing or takes nothing, and those that are not yet set up (with TLS,
            until the handshake).
        taken: Connections that were taken and are not closed.
    """

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.most = _MOST_DESCRIPTORS
        self.idle: Idle = {}
        self.taken: weakref.WeakSet[_Accepted] = weakref.WeakSet()

    def accept(self) -> tuple[socket.socket, Any]:
        """Takes the next connection.

        Raises:
            ConnectionAbortedError: It is to be taken in the event loop's next turn, when there is room; or there will
                be none, and it was closed.
            BlockingIOError: There is none.
        """
        is_short = self._is_short()
        if not is_short and len(self.taken) < self.most:
            return self._take()
        if not self._is_asked():  # the event loop tries until there is none, for whom nobody should make room
            raise BlockingIOError
        if is_short:
            logger.warning("idle connections are closed, and descriptors kept for the sandbox (see ulimit -n)")
        else:
            logger.warning("idle connections are closed, since there are more than --max_connections")
        if self.idle:
            next(iter(self.idle.values())).give_up()
        elif is_short:
            super().accept()[0].close()
        else:
            return self._take()
        raise ConnectionAbortedError

    def _take(self) -> tuple[socket.socket, Any]:
        accepted, address = super().accept()
        connection = _Accepted(accepted, self)
        self.taken.add(connection)
        self.idle.pop(connection.fileno(), None)
        self.idle[connection.fileno()] = connection
        return connection, address

    def _is_asked(self) -> bool:
        waiting = select.poll()
        waiting.register(self, select.POLLIN)
        return bool(waiting.poll(0))

    def _is_short(self) -> bool:
        try:
            # The system gives the lowest number that is free, so all numbers below are taken.
            number = os.dup(self.fileno())
        except OSError:
            return True
        os.close(number)
        return number >= min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2, _MOST_DESCRIPTORS)


class _Accepted(socket.socket):
    """The socket of a connection that a listener has taken, and counts until it is closed."""

    def __init__(self, accepted: socket.socket, listener: Listener):
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self._listener = listener

    def give_up(self) -> None:
        """Ends the connection, of which nobody but the event loop knows."""
        self._leave()
        with contextlib.suppress(OSError):  # the client has gone
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the socket."""
        self._leave()
        super().close()

    def _leave(self) -> None:
        self._listener.taken.discard(self)
        if self._listener.idle.get(self.fileno()) is self:
            del self._listener.idle[self.fileno()]


class Connection(H11Protocol):
    """A client's connection, closed if no head of a request comes in time, or nothing of an answer is taken.

    uvicorn itself closes only connections that stay silent after an answer.

    Args:
        idle: Where it stands while it may be closed; see `Listener`.
        limits: Bounds on time and number.
        arguments: Those of uvicorn.
    """

    def __init__(self, *, idle: Idle, limits: ServiceLimits, **arguments: Any):
        super().__init__(**arguments)
        self._idle, self._limits = idle, limits
        self._timer: asyncio.TimerHandle | None = None
        # What the timer is about: an answer that is not taken, or else a head that is missing.
        self._is_sending = False
        self._unsent = 0  # bytes, when the timer was set
        self.app = self._answer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a new connection."""
        super().connection_made(transport)
        # So that `pause_writing` means that the client has not taken all, and no answer is cut off as if it had.
        transport.set_write_buffer_limits(high=1, low=0)
        self._descriptor: int = transport.get_extra_info("socket").fileno()
        self._idle.pop(self._descriptor, None)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Takes what has arrived."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Goes on to the next request."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """Waits for the client to take what was sent."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Goes on, since the client has taken what was sent."""
        super().resume_writing()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets a connection that has ended."""
        super().connection_lost(exc)
        self._forget()

    def shutdown(self) -> None:
        """Ends the connection if nothing is in progress on it, and otherwise after that."""
        if self._is_idle and not self.transport.get_write_buffer_size():
            self.give_up()  # with TLS, a mere close waits for the client's farewell
        elif not self.transport.is_closing():  # asyncio's TLS transport is of no use once it was closed twice
            super().shutdown()

    def give_up(self) -> None:
        """Ends the connection."""
        self._forget()
        self.transport.abort()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        """Sets the time for a head or an answer once, so that one that comes drop by drop does not gain any."""
        is_sending = self.flow.write_paused
        if not is_sending and (not self._is_idle or self.transport.is_closing()):
            self._forget()
        elif self._timer is None or self._is_sending != is_sending:
            self._forget()
            self._is_sending = is_sending
            self._idle[self._descriptor] = self
            self._set_timer()

    def _set_timer(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        seconds = self._limits.send_seconds if self._is_sending else self._limits.head_seconds
        self._timer = self.loop.call_later(seconds, self._end_time)

    def _end_time(self) -> None:
        if self._is_sending and self.transport.get_write_buffer_size() < self._unsent:
            self._set_timer()
        else:
            self.give_up()

    def _forget(self) -> None:
        if self._idle.get(self._descriptor) is self:
            del self._idle[self._descriptor]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request (ASGI), or refuses it where there are too many connections and none is idle.

        uvicorn's own refusal does not say when to come back.
        """
        if len(self.connections) <= self._limits.max_connections:
            await self.config.loaded_app(scope, receive, send)
            return
        logger.warning("requests get status 503, since there are more than --max_connections and none is idle")
        headers = {"Connection": "close"}
        refusal = ServiceRefusal(503, "busy", "too many connections", retry_after=5, headers=headers)
        await refusal.response()(scope, receive, send)

    def _unsupported_upgrade_warning(self) -> None:
        """Says nothing: the request is answered as any other, and uvicorn would advise to install what it lacks."""


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
    """Lets messages that strangers can cause show once a minute."""
    seldom = SeldomFilter()
    for name in (__name__, "uvicorn.error", "asyncio", REFUSED):
        logging.getLogger(name).addFilter(seldom)
