"""A server of chat completions whose answers a function writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from tests.helpers.http_thread import Quiet, answering


@contextmanager
def chatting(answer: Callable[[str], str]) -> Iterator[str]:
    """Serves chat completions; gives their address.

    Args:
        answer: Called with the text of the last turn.
    """

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            message = {"role": "assistant", "content": answer(request["messages"][-1]["content"])}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = json.dumps({"object": "chat.completion", "choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with answering(Handler) as address:
        yield f"{address}/v1/chat/completions"
