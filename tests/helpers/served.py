"""Servers that others wrote, in processes of their own: until they are ready, and to their end."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.helpers.processes import family, kill


@contextmanager
def served(command: Sequence[str], port: int, log: Path, *, seconds: float = 800) -> Iterator[str]:
    """The base URL of the server that a command starts at a port of this machine, once it is ready."""
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        end = time.monotonic() + seconds
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                assert server.poll() is None, log.read_text(errors="replace")[-5000:]
                assert time.monotonic() < end, log.read_text(errors="replace")[-5000:]
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        # A server that is killed may leave its engine behind.
        processes = family(server.pid)
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(30)
        kill(processes)
        server.wait()
