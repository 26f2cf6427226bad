"""Whatever ends a session's process, at whatever moment: what the block under way and the next one get."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from genprm_trl.sandbox import Limits, LocalSandbox

SHORT = Limits(timeout=0.3, grace=0.3)
STUBBORN = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\nwhile 1: pass"


@pytest.mark.parametrize("later", ["os._exit(1)", "os.write(63, b'x' * 29)"])
async def test_what_happens_between_blocks_is_not_the_next_blocks_fault(later: str):
    """A thread ends the process, or plants bytes in the channel, after its block has been answered."""
    code = f"import os, threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), {later})).start()"
    async with LocalSandbox() as sandbox, sandbox.session() as session:
        await session.run("x = 41")
        assert (await session.run(code)).status == "ok"
        session._history.pop()  # or it would do the same again
        await asyncio.sleep(0.5)
        result = await session.run("print(x + 1)")
    assert (result.status, result.output) == ("ok", "42")


async def test_closing_a_session_ends_its_block_as_the_sandboxs_doing():
    async with LocalSandbox(Limits(timeout=30)) as sandbox:
        session = sandbox.session()
        await session.run("x = 1")
        running, waiting = (asyncio.create_task(session.run(code)) for code in (STUBBORN, "print(x)"))
        await asyncio.sleep(0.1)
        await session.close()
        results = await asyncio.gather(running, waiting)
    assert [(r.status, r.output) for r in results] == [("sandbox_error", "")] * 2
    assert all("closed" in r.message for r in results)


async def test_closing_a_session_before_its_process_is_there():
    async with LocalSandbox() as sandbox:
        session = sandbox.session()
        first = asyncio.create_task(session.run("print('ran')"))
        await asyncio.sleep(0)
        await session.close()
        assert ((await first).status, (await first).output) == ("sandbox_error", "")


@pytest.mark.parametrize("moment", [0.0, 0.3, 1.5])
async def test_closing_the_sandbox_under_running_blocks(moment: float):
    sandbox = LocalSandbox(Limits(timeout=30))
    sessions = [sandbox.session() for _ in range(12)]
    blocks = [asyncio.create_task(s.run("import time; time.sleep(20)")) for s in sessions]
    await asyncio.sleep(moment)
    await sandbox.close()
    results = await asyncio.wait_for(asyncio.gather(*blocks), 20)
    assert {r.status for r in results} == {"sandbox_error"}
    assert "closed" in (await sessions[0].run("1")).message


async def test_cancelled_at_any_moment():
    """Neither a process, a descriptor nor a place in the queue is lost, and the session goes on."""
    codes = ["while 1: pass", "import time; time.sleep(9)", "print('a' * 10**6)", "import os; os._exit(3)", STUBBORN]
    moments = random.Random(0)
    async with LocalSandbox(SHORT, max_concurrency=4) as sandbox:

        async def client(number: int) -> None:
            async with sandbox.session() as session:
                await session.run("x = 1")
                block = asyncio.create_task(session.run(codes[number % len(codes)]))
                await asyncio.sleep(moments.uniform(0, 0.03))
                block.cancel()
                await asyncio.wait([block])
                assert (await session.run("print(x)")).output == "1"

        await client(0)
        await asyncio.sleep(0.3)
        host = psutil.Process()
        before = host.num_fds(), len(host.children(recursive=True))
        for _ in range(3):
            await asyncio.gather(*(client(i) for i in range(10)))
        await asyncio.sleep(0.3)
        after = host.num_fds(), len(host.children(recursive=True))
        assert sandbox._gate._free == 4
    assert after[0] <= before[0] + 2
    assert after[1] <= before[1] + 2


async def test_a_session_that_is_forgotten_ends():
    async with LocalSandbox() as sandbox:
        await sandbox.session().run("1")
        await asyncio.sleep(0.3)
        before = len(psutil.Process().children(recursive=True))
        for _ in range(5):
            session = sandbox.session()
            await session.run("import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()")
            with pytest.warns(ResourceWarning):  # as for a file that is not closed
                del session
        await asyncio.sleep(0.5)
        assert len(psutil.Process().children(recursive=True)) <= before + 1


async def test_replays_are_bounded():
    """Slow blocks, each followed by one that ends the process, must not take ever longer."""
    async with LocalSandbox(Limits(timeout=0.2, grace=0.2)) as sandbox, sandbox.session() as session:
        session._most_replayed = 0.5
        for _ in range(6):
            await session.run("import time; time.sleep(0.15)")
            assert (await session.run("import os; os._exit(1)")).status == "killed"
        assert (await session.run("print(1)")).output == "1"
        assert session._replayed < 1


async def test_a_forked_child_of_the_host_leaves_the_sessions_alone():
    async with LocalSandbox() as sandbox, sandbox.session() as session:
        await session.run("x = 5")
        pid = os.fork()
        if pid == 0:

            async def child() -> None:
                ours = await sandbox.session().run("print('child')")
                await session.close()
                await sandbox.close()
                os._exit(0 if ours.output == "child" else 1)

            try:
                asyncio.run(child())
            finally:
                os._exit(2)
        assert (await asyncio.to_thread(os.waitpid, pid, 0))[1] == 0
        assert (await session.run("print(x)")).output == "5"


HOST = """
import asyncio
from genprm_trl.sandbox import LocalSandbox
async def main():
    async with LocalSandbox() as sandbox:
        async def client():
            while True:
                async with sandbox.session() as session:
                    await session.run("open('f', 'w').write('x')\\nimport os\\nif not os.fork():\\n while True: pass")
        await asyncio.gather(*(client() for _ in range(4)))
asyncio.run(main())
"""


@pytest.mark.slow
def test_the_host_is_killed_at_any_moment(tmp_path: Path):
    """While the interpreter starts, while it imports, while sessions come and go."""
    tmp_path.chmod(0o755)
    for moment in (0.05, 0.12, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.2, 1.6):
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        host = subprocess.Popen([sys.executable, "-c", HOST], env=environment, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        children = psutil.Process(host.pid).children(recursive=True)
        host.send_signal(signal.SIGKILL)
        host.wait()
        deadline = time.monotonic() + 20
        while any(p.is_running() for p in children) or any(tmp_path.iterdir()):
            assert time.monotonic() < deadline, (moment, children, list(tmp_path.iterdir()))
            time.sleep(0.02)
