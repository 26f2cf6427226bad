"""A SandboxFusion server small enough for tests: its HTTP API over plain subprocesses, and faults on demand.

It answers with the client package's own models, so requests and answers have the real server's shape.
"""

import asyncio
import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from sandbox_fusion.models import (
    CellRunResult,
    CommandRunResult,
    CommandRunStatus,
    RunCodeRequest,
    RunCodeResponse,
    RunJupyterRequest,
    RunJupyterResponse,
    RunStatus,
)

# Stands for the kernel: runs cells in one namespace and reports what each wrote, as a notebook's driver does.
KERNEL = """
import contextlib, io, json, sys
results, namespace, real = [], {"__name__": "__main__"}, sys.stdout
for cell in json.load(sys.stdin):
    out, error = io.StringIO(), []
    with contextlib.redirect_stdout(out):
        try:
            exec(cell, namespace)
        except Exception as e:
            error = [{"ename": type(e).__name__, "evalue": str(e), "traceback": []}]
    results.append({"stdout": out.getvalue(), "stderr": "", "display": [], "error": error})
json.dump(results, real)
"""


class FusionServer:
    """Runs in a separate thread.

    Attributes:
        faults: What the next requests get instead of an answer, taken from the front; the last one stays if `forever`.
        requests: How many arrived.
        most_at_once: The largest number that were in work together.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.forever = False
        self.requests = self.most_at_once = self._now = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self.endpoint = ""

    def reset(self, *faults: str, forever: bool = False) -> None:
        self.faults, self.forever = list(faults), forever
        self.requests = self.most_at_once = 0

    @contextmanager
    def running(self) -> Iterator["FusionServer"]:
        thread = threading.Thread(target=self._serve, daemon=True)
        thread.start()
        assert self._ready.wait(10)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)

        async def start() -> None:
            application = web.Application(client_max_size=1 << 26)
            application.router.add_post("/run_code", self._guard(self._run_code))
            application.router.add_post("/run_jupyter", self._guard(self._run_jupyter))
            runner = web.AppRunner(application)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            self.endpoint = f"http://{host}:{port}"
            self._ready.set()

        self._loop.run_until_complete(start())
        self._loop.run_forever()

    def _guard(self, handler: Any) -> Any:
        async def guarded(request: web.Request) -> web.StreamResponse:
            self.requests += 1
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            try:
                body = await request.json()
                fault = ""
                if self.faults:
                    fault = self.faults[0] if self.forever else self.faults.pop(0)
                return await self._fail(fault, request) if fault else await handler(body)
            finally:
                self._now -= 1

        return guarded

    async def _fail(self, fault: str, request: web.Request) -> web.StreamResponse:
        if fault.isdigit():
            return web.Response(status=int(fault), text="fault")
        if fault == "hang up":
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if fault == "slow":
            while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            return web.Response()
        if fault == "cut short":
            response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
            await response.prepare(request)
            await response.write(b'{"status": "Suc')
            assert request.transport is not None
            request.transport.close()
            return response
        if fault == "redirects":
            raise web.HTTPTemporaryRedirect(location=str(request.url))
        if fault == "redirected away":
            raise web.HTTPPermanentRedirect(location="http://127.0.0.1:9/run_code")
        if fault == "reset":
            assert request.transport is not None
            linger = struct.pack("ii", 1, 0)
            request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            request.transport.abort()
            return web.Response()
        if fault == "drips":
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            while request.transport is not None and not request.transport.is_closing():
                await response.write(b" ")
                await asyncio.sleep(0.02)
            return response
        if fault == "bad compression":
            headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
            return web.Response(body=b"\x1f\x8bnonsense", headers=headers)
        if fault == "not utf-8":
            return web.Response(body=b'{"status": "\xff\xfe"}', content_type="application/json")
        result = {"status": "Finished", "return_code": 0, "stdout": "", "stderr": ""}
        answer = {"status": "Success", "message": "", "run_result": result, "driver": result, "cells": [], "files": {}}
        failed = {**result, "status": "Error"}
        nonsense: dict[str, Any] = {
            "huge": json.dumps({**answer, "status": "x" * (1 << 25)}),
            "deep": "[" * 100_000,
            "number as text": json.dumps({**answer, "run_result": 5, "driver": 5}),
            "text as list": json.dumps({**answer, "run_result": {**result, "stdout": [1]}, "driver": [result]}),
            "unknown status": json.dumps({**answer, "status": "Perhaps"}),
            "could not run": json.dumps({**answer, "status": "Failed", "run_result": failed, "driver": failed}),
            "half a surrogate": '{"status": "SandboxError", "message": "\\ud800"}',
            "html": "<html>proxy error</html>",
            "not json": "{",
            "wrong schema": json.dumps({"ok": True}),
            "a list": "[]",
            "null fields": json.dumps({"status": "Success", "message": ""}),
            "sandbox error": json.dumps({"status": "SandboxError", "message": "no disk"}),
            "empty": "",
        }
        kind = "text/html" if fault == "html" else "application/json"
        return web.Response(text=nonsense[fault], content_type=kind)

    async def _run_code(self, body: dict[str, Any]) -> web.Response:
        request = RunCodeRequest(**body)
        result = await asyncio.to_thread(run_python, request.code, request.stdin, request.run_timeout)
        good = result.status == CommandRunStatus.Finished and result.return_code == 0
        status = RunStatus.Success if good else RunStatus.Failed
        return web.json_response(RunCodeResponse(status=status, message="", run_result=result).dict())

    async def _run_jupyter(self, body: dict[str, Any]) -> web.Response:
        request = RunJupyterRequest(**body)
        result = await asyncio.to_thread(run_python, KERNEL, json.dumps(request.cells), request.cell_timeout)
        if result.status == CommandRunStatus.Finished and result.return_code == 0:
            cells = [CellRunResult(**cell) for cell in json.loads(result.stdout or "")]
            answer = RunJupyterResponse(status=RunStatus.Success, message="", driver=result, cells=cells)
        else:
            answer = RunJupyterResponse(status=RunStatus.Failed, message="", driver=result)
        return web.json_response(answer.dict())


def run_python(code: str, stdin: str | None, timeout: float) -> CommandRunResult:
    """As the server does: the code in a file, the file in a fresh interpreter."""
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "main.py"
        script.write_text(code)
        try:
            done = subprocess.run(
                [sys.executable, str(script)], input=(stdin or "").encode(), capture_output=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            return CommandRunResult(status=CommandRunStatus.TimeLimitExceeded)
    return CommandRunResult(
        status=CommandRunStatus.Finished,
        return_code=done.returncode,
        stdout=done.stdout.decode(errors="replace"),
        stderr=done.stderr.decode(errors="replace"),
    )
