"""A web server of the files in a directory."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

from tests.helpers.http_thread import Quiet, answering


class _Handler(Quiet, SimpleHTTPRequestHandler):
    """Gives files."""


def serving_files(directory: Path) -> AbstractContextManager[str]:
    """Serves a directory; gives its address."""
    return answering(partial(_Handler, directory=str(directory)))
