"""Runs a solution's blocks in one go, on a server that starts a fresh interpreter for every request.

Self-contained: its text is sent to the server. Earlier blocks run unseen to build up the namespace; only the last one
is reported, as one line of JSON behind a marker that the request chose at random.
"""
# ruff: noqa: PTH123, SIM115

import contextlib
import errno
import io
import json
import os
import random
import resource
import signal
import sys
import time
import types
from typing import Any, TextIO

TIMEOUT_TEXT = "Code execute time out: Code execution timed out"


class BlockTimeout(BaseException):
    """Raised inside a block when its time is up. Not an `Exception`, so a plain handler does not swallow it."""


def cut_middle(text: str, limit: int) -> str:
    """Cuts the middle of a text that is over `limit` characters, once what UTF-8 cannot hold is escaped."""
    half, text = limit // 2, text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= limit:
        return text
    return f"{text[:half]}\n... [{len(text) - 2 * half} characters of output cut] ...\n{text[-half:]}"


class Output(io.TextIOWrapper):
    """Standard output of a block."""


def describe(error: BaseException) -> str:
    """The error line of a block, even if the error's own text cannot be made."""
    try:
        return f"Code execute Error: {type(error).__name__}: {error}"
    except BlockTimeout:
        raise
    except BaseException:
        return f"Code execute Error: {type(error).__name__}: "


def become_published(namespace: "dict[str, object]") -> None:
    """Shows code what the published executor showed it: a namespace without a name, and text without an encoding."""
    for name in ("__name__", "__doc__", "__package__", "__loader__", "__spec__"):
        namespace.pop(name, None)
    Output.encoding = None  # type: ignore[assignment]


def execute(code: str, namespace: "dict[str, object]") -> "tuple[str, str]":
    """Runs a block. Returns its status and its error line."""
    try:
        exec(compile(code, "<string>", "exec", dont_inherit=True), namespace)
        return "ok", ""
    except BlockTimeout:
        raise
    except SystemExit as error:
        return ("ok", "") if error.code in (None, 0) else ("error", describe(error))
    except BaseException as error:
        short = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
        text = describe(error)
        if Output.encoding is None and isinstance(error, TimeoutError):  # the published executor took it for its own
            text = "Code execute time out: " + text.partition(": ")[2].partition(": ")[2]
        return "memory" if short else "error", text


def run_block(code: str, namespace: "dict[str, object]", seconds: float, limit: int) -> "tuple[str, str, float]":
    """Status, text and seconds of one block."""
    fired = []

    def alarm(signum: int, frame: "types.FrameType | None") -> None:
        fired.append(True)
        if frame is None or frame.f_code is not run_block.__code__:
            raise BlockTimeout

    raw = io.BytesIO()
    out = Output(raw, encoding="utf-8", errors="backslashreplace", write_through=True)
    streams = sys.stdin, sys.stdout, sys.stderr
    status, text, start, process = "ok", "", time.perf_counter(), os.getpid()
    previous = signal.signal(signal.SIGALRM, alarm)
    try:
        sys.stdin, sys.stdout, sys.stderr = open(os.devnull), out, open(os.devnull, "w")
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.1)
        status, text = execute(code, namespace)
    except BlockTimeout:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        sys.stdin, sys.stdout, sys.stderr = streams
    if os.getpid() != process:
        os._exit(0)  # a child that the program forked has come to the end of the block
    if fired:
        status, text = "timeout", TIMEOUT_TEXT
    elif status == "ok" and not raw.closed:
        text = raw.getvalue().decode("utf-8", "replace").strip()
    return status, cut_middle(text, limit), time.perf_counter() - start


def limit_memory(size: int) -> None:
    """Bounds the address space to what is in use and `size` bytes more."""
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/statm") as statm:
            size += int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))


def run_blocks(request: "dict[str, Any]", out: TextIO) -> None:
    """Runs the request's blocks and writes the last one's result to `out`."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    os.environ.clear()
    random.seed(request["seed"])
    if any("numpy" in block for block in request["blocks"]):
        with contextlib.suppress(Exception):
            import numpy

            numpy.random.seed(request["seed"])
    if request["as_published"]:
        become_published(module.__dict__)
    limit_memory(request["memory"])
    for block in request["blocks"]:
        status, text, seconds = run_block(block, module.__dict__, request["timeout"], request["output"])
    answer = json.dumps({"status": status, "output": text, "seconds": seconds})
    out.write(f"\n{request['marker']}{answer}\n")
    out.flush()


def main() -> None:
    """Runs the request on standard input, and ends the process."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    request, out = json.load(sys.stdin), os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # what goes past sys.stdout is not reported, and could be more than the server can hold
        os.dup2(null, descriptor)
    run_blocks(request, out)
    os._exit(0)  # threads and exit handlers of the program are not waited for
