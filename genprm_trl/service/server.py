"""Running the application: a socket, uvicorn, loading the model beside it, and an orderly end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from genprm_trl.errors import ConfigError
from genprm_trl.generation.replicas import is_loopback
from genprm_trl.service.connections import (
    Connection,
    Idle,
    Listener,
    handle_loop_errors,
    quieten_floods,
    raise_descriptor_limit,
)
from genprm_trl.service.core import VerifierService
from genprm_trl.verifier.base import Verifier

logger = logging.getLogger(__name__)

# After the last verdict is written: for a client that is slow to take it.
_FLUSH_SECONDS = 5
# Connections that the system holds until they are taken.
_BACKLOG = 1024


def listen(host: str, port: int, *, guarded: bool) -> socket.socket:
    """A listening socket, taken before anything slow happens.

    Args:
        host: Address or name to listen at.
        port: Port; 0 takes a free one.
        guarded: Whether a token guards the service. Without one, addresses that other machines reach are refused.

    Raises:
        ConfigError: The address cannot be used.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"cannot listen at port {port}: ports are from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot listen at {host}, port {port}: {error}") from None
    if not guarded and not is_loopback(str(address[0])):
        raise ConfigError(
            f"{host} can be reached from other machines, and there is no token to keep them out. Set "
            "GENPRM_SERVICE_TOKEN or give --token_file, or listen at 127.0.0.1"
        )
    listener = Listener(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen at {host}, port {port}: {error}") from None
    return listener


def url_of(listener: socket.socket, *, tls: bool = False) -> str:
    """The URL under which a listening socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def check_certificate(certfile: str | None, keyfile: str | None) -> None:
    """Checks that a certificate and its key can be used for TLS; both None stand for a server without TLS.

    Raises:
        ConfigError: A file cannot be read, the key is protected by a password or another certificate's, or there is a
            key alone.
    """
    if certfile is None:
        if keyfile is not None:
            raise ConfigError("--ssl_keyfile needs --ssl_certfile, the certificate of the key")
        return
    try:
        # Without an answer at hand, OpenSSL would ask the terminal for the password of a key.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile, password="")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise ConfigError(
            f"the certificate {certfile} (with the key in {keyfile or certfile}) cannot be used: {error}. Give the "
            "PEM files of the chain and of its key, without a password"
        ) from None


class ServiceServer(uvicorn.Server):
    """A uvicorn server that finishes what is in progress before it stops.

    Args:
        app: Made by `create_app`.
        shutdown_seconds: How long requests in progress may go on after a signal to stop. A second Ctrl-C ends them.
        ssl_certfile, ssl_keyfile: Certificate and key for TLS; see `check_certificate`.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        shutdown_seconds: float = 30.0,
        ssl_certfile: str | None = None,
        ssl_keyfile: str | None = None,
    ):
        self._service: VerifierService = app.state.service
        self._shutdown_seconds = shutdown_seconds
        self._idle: Idle = {}
        limits = self._service.limits
        config = uvicorn.Config(
            app,
            # uvicorn calls it as it would call the class.
            http=partial(Connection, idle=self._idle, limits=limits),  # type: ignore[arg-type]
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="on",
            ws="none",
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_FLUSH_SECONDS,
            ssl_certfile=ssl_certfile,
            ssl_keyfile=ssl_keyfile,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says where it listens, once it does and signals are heard."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(handle_loop_errors)
        if self.config.is_ssl:  # uvicorn has no option for the time of a handshake, and asyncio's default is a minute
            seconds = self._service.limits.head_seconds
            loop.create_server = partial(loop.create_server, ssl_handshake_timeout=seconds)  # type: ignore[method-assign]
        for listener in sockets or []:
            if isinstance(listener, Listener):
                listener.idle, listener.most = self._idle, self._service.limits.max_connections
        await super().startup(sockets)
        for listener in sockets or []:
            logger.info("listening at %s", url_of(listener, tls=self.config.is_ssl))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drains the service while it still answers, so that health checks see the end coming; then stops."""
        draining = asyncio.create_task(self._service.drain(self._shutdown_seconds))
        while not draining.done() and not self.force_exit:
            await asyncio.wait({draining}, timeout=0.1)
        draining.cancel()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handles signals as uvicorn does, but a stop by SIGTERM is a success, and not raised again afterwards."""
        if sig == signal.SIGTERM:
            self.should_exit = True
        else:
            super().handle_exit(sig, frame)


async def serve(
    app: FastAPI,
    listener: socket.socket,
    load: Callable[[], Verifier],
    *,
    shutdown_seconds: float = 30.0,
    ssl_certfile: str | None = None,
    ssl_keyfile: str | None = None,
) -> None:
    """Serves until a signal comes, answering from the start and judging once the model is loaded.

    Args:
        app: Made by `create_app` without a verifier.
        listener: Made by `listen`.
        load: Makes the verifier; called in a thread.
        shutdown_seconds: Time that requests in progress get to finish after a signal.
        ssl_certfile: Certificate for TLS; see `check_certificate`.
        ssl_keyfile: Its key.

    Raises:
        Whatever `load` raises. The server stops first.
    """
    quieten_floods()
    descriptors = raise_descriptor_limit()
    logger.debug("this process may have %d descriptors", descriptors)
    server = ServiceServer(app, shutdown_seconds=shutdown_seconds, ssl_certfile=ssl_certfile, ssl_keyfile=ssl_keyfile)
    service: VerifierService = app.state.service
    loaded = _load_in_thread(load)

    async def attach() -> None:
        try:
            service.attach(await asyncio.wrap_future(loaded))
        except BaseException:
            server.should_exit = True
            raise
        if trouble := await service.trouble():
            logger.warning("not ready: %s", trouble)
        else:
            logger.info("ready: %s", url_of(listener, tls=ssl_certfile is not None))

    attaching = asyncio.create_task(attach())
    try:
        await server.serve(sockets=[listener])
    finally:
        attaching.cancel()
        await asyncio.gather(attaching, return_exceptions=True)
    if not attaching.cancelled():
        attaching.result()


def _load_in_thread(load: Callable[[], Verifier]) -> concurrent.futures.Future[Verifier]:
    loaded: concurrent.futures.Future[Verifier] = concurrent.futures.Future()
    loaded.set_running_or_notify_cancel()

    def run() -> None:
        try:
            loaded.set_result(load())
        except BaseException as error:
            loaded.set_exception(error)

    # A daemon, so that a signal while the model is being loaded ends the process.
    threading.Thread(target=run, name="genprm-load", daemon=True).start()
    return loaded
