"""A sandbox that is started from a terminal: its signals do not reach it, and no program reaches the terminal."""

import os
import pty
import sys
import time

import pytest

HOST = """
import asyncio, os, signal
from genprm_trl.sandbox import LocalSandbox

signal.signal(signal.SIGINT, lambda *_: None)  # as in a program that finishes what it has begun

async def main():
    sandbox = LocalSandbox()
    async with sandbox.session() as session:
        await session.run("x = 1")
        os.open("/dev/tty", os.O_RDWR)  # the host has one
        print("READY", flush=True)
        while True:
            result = await session.run(
                "import os\\n"
                "assert os.getsid(0) == os.getpgid(0) == os.getpid()\\n"
                "try: os.open('/dev/tty', os.O_RDWR)\\n"
                "except OSError: print('no terminal', x)"
            )
            print("SAYS", result.output, flush=True)
            await asyncio.sleep(0.1)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes' groups as Linux has them")
def test_a_terminal():
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", HOST])
    said, deadline = b"", time.monotonic() + 60
    interrupted = False
    try:
        while said.count(b"SAYS no terminal 1") < 3 and time.monotonic() < deadline:
            said += os.read(terminal, 4096)
            if b"SAYS" in said and not interrupted:
                os.write(terminal, b"\x03")  # Ctrl-C goes to every process in the terminal's foreground
                interrupted, said = True, b""
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)
    assert said.count(b"SAYS no terminal 1") == 3, said.decode(errors="replace")
