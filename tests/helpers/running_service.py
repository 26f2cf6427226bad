"""A real server on a free port of this machine, in a thread, for as long as a test needs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from genprm_trl.protocol import GenPRMProtocol
from genprm_trl.records import Solution
from genprm_trl.service import ServiceLimits, create_app
from genprm_trl.service.server import ServiceServer, listen, url_of
from genprm_trl.verifier.base import Verifier
from genprm_trl.verifier.genprm import GenPRM
from tests.helpers.scripted_generator import ScriptedGenerator

TOKEN = "a-token-for-tests-0123456789"


@dataclass
class Running:
    """A server, and short ways to use it."""

    url: str
    app: FastAPI
    server: ServiceServer
    thread: threading.Thread
    http: httpx2.Client

    def post(self, body: Any, **options: Any) -> httpx2.Response:
        """POST /verify with a JSON body, or with bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        return self.http.post("/verify", content=content, headers=headers, **options)

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return self.http.get(path, **options)

    def metrics(self, **options: Any) -> dict[str, float]:
        """Every sample by its name, followed by the values of its labels."""
        families = text_string_to_metric_families(self.get("/metrics", **options).text)
        return {
            " ".join([sample.name, *sample.labels.values()]): sample.value
            for family in families
            for sample in family.samples
        }


@contextlib.contextmanager
def running(
    prm: Verifier,
    limits: ServiceLimits | None = None,
    *,
    token: str | None = None,
    shutdown_seconds: float = 5.0,
    ssl_certfile: str | None = None,
    ssl_keyfile: str | None = None,
) -> Iterator[Running]:
    listener = listen("127.0.0.1", 0, guarded=token is not None)
    app = create_app(prm, limits=limits, token=token)
    server = ServiceServer(app, shutdown_seconds=shutdown_seconds, ssl_certfile=ssl_certfile, ssl_keyfile=ssl_keyfile)
    url = url_of(listener, tls=ssl_certfile is not None)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        wait_for(lambda: server.started)
        with httpx2.Client(base_url=url, timeout=30, verify=False) as http:
            yield Running(url, app, server, thread, http)
    finally:
        server.should_exit = True
        thread.join()


def connect(service: Running, *, buffer: int | None = None) -> socket.socket:
    """A bare connection to a server, perhaps with so many bytes for what is not yet read."""
    host, port = service.url.partition("://")[2].split(":")
    connection = socket.socket()
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(30)
    connection.connect((host, int(port)))
    return connection


def talk(service: Running, data: bytes) -> bytes:
    """The beginning of what a server answers to these bytes."""
    with connect(service) as connection:
        connection.sendall(data)
        return connection.recv(65536)


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def yes(prompt: str) -> str:
    """A model that finds everything right."""
    return "{Yes}$\n</output>\n"


def direct(script: Callable[[str], Any] = yes, *, delay: float = 0.0, **options: Any) -> GenPRM:
    """A verifier that judges a step with one generation and without code."""
    return GenPRM(ScriptedGenerator(script, delay=delay), None, GenPRMProtocol(mode="direct"), **options)


def rows(count: int, *, steps: int = 1, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"s{i}", "problem": f"p{i}", "steps": [f"{i} + {k} = {i + k}." for k in range(steps)]}
        for i in range(start, start + count)
    ]


def solutions(count: int, *, steps: int = 1, start: int = 0) -> list[Solution]:
    return [Solution.from_dict(row) for row in rows(count, steps=steps, start=start)]


def lines(response: httpx2.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.text.split("\n") if line]
