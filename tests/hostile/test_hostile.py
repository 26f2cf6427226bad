"""Programs that attack the sandbox, one file each under programs/, and what the host must see afterwards.

A program's first comment says what it attacks, its second how its block may end: `# expect: status [status...]`, or
`# expect: status=output`. A program that gets what it is after prints BREACH. Whatever it does, the host's files,
listeners, processes and other sessions must be as before, its own session must go on, and the next one be as new.
"""

import asyncio
import contextlib
import os
import platform
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from genprm_trl.sandbox import ExecutionResult, Limits, LocalSandbox, Session

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*/*.py"))
LIMITS = Limits(timeout=0.7, grace=0.7, memory=256 << 20, disk=16 << 20, file_size=32 << 20)
PATIENT = replace(LIMITS, timeout=15, grace=5)
SECRET = "secret-canary-token"
PROTECTED = [
    "unprivileged_user",
    "pid_namespace",
    "mount_namespace",
    "network_namespace",
    "no_network",
    "ipc_namespace",
    "hidden_root",
    "private_tmp",
    "no_capabilities",
    "no_new_privs",
    "seccomp",
]


@dataclass
class Host:
    """What must stay as it is."""

    sandbox: LocalSandbox
    sibling: Session
    directory: Path
    listeners: list[socket.socket]
    names: dict[str, object]
    threads: int

    def state(self) -> dict[str, object]:
        shared_memory = Path("/proc/sysvipc")
        return {
            "canary": [
                (p.name, p.read_text(), p.stat().st_mode, p.stat().st_nlink)
                for p in self.directory.iterdir()
                if p.is_file()
            ],
            "ipc": [(shared_memory / kind).read_text().count("\n") for kind in ("shm", "sem", "msg")],
            "/dev/shm": sorted(p.name for p in Path("/dev/shm").iterdir() if "planted" in p.name),
            "environment": dict(os.environ),
            "zygote": self.sandbox._start()._process.pid,
            "host name": socket.gethostname(),
            "devices": [Path(f"/dev/{n}").stat().st_mode for n in ("null", "zero", "full", "random", "urandom")],
        }

    def visitors(self) -> int:
        """Connections and datagrams that have arrived at the listeners."""
        count = 0
        for listener in self.listeners:
            with contextlib.suppress(BlockingIOError):
                if listener.type == socket.SOCK_DGRAM:
                    listener.recv(100)
                else:
                    listener.accept()[0].close()
                count += 1
        return count


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    threads = threading.active_count()
    patch = pytest.MonkeyPatch()
    patch.setenv("CANARY_TOKEN", SECRET)
    directory = tmp_path_factory.mktemp("canary")
    (directory / "canary").write_text(SECRET)
    tcp, udp, unix, abstract = (
        socket.socket(),
        socket.socket(type=socket.SOCK_DGRAM),
        socket.socket(socket.AF_UNIX),
        socket.socket(socket.AF_UNIX),
    )
    tcp.bind(("127.0.0.1", 0))
    port = tcp.getsockname()[1]
    udp.bind(("127.0.0.1", port))
    unix.bind(str(directory / "socket"))
    abstract.bind(f"\0genprm-canary-{os.getpid()}")
    for listener in (tcp, unix, abstract):
        listener.listen()
    listeners = [tcp, udp, unix, abstract]
    for listener in listeners:
        listener.setblocking(False)
    sandbox = LocalSandbox(LIMITS)
    sibling = sandbox.session()
    keep = f"x = 7; open('kept-by-sibling', 'w').write({SECRET!r})"
    assert asyncio.run(sibling.run(keep)).status == "ok"
    names = {
        "CANARY": str(directory / "canary"),
        "PORT": port,
        "UNIX_SOCKET": str(directory / "socket"),
        "ABSTRACT_SOCKET": f"\0genprm-canary-{os.getpid()}",
        "HOST_PID": os.getpid(),
    }
    yield Host(sandbox, sibling, directory, listeners, names, threads)
    asyncio.run(sandbox.close())
    for listener in listeners:
        listener.close()
    patch.undo()


def test_every_protection_holds_here(host: Host):
    """The programs below assume them; where a kernel refuses some, this test says so once."""
    held = host.sandbox.protections()
    missing = {name: held[name].reason for name in PROTECTED if not held[name].holds}
    assert not missing


async def patiently(session: Session, code: str) -> ExecutionResult:
    """Runs what cannot take long; a machine under load may need more than one block's time for it."""
    for _ in range(20):
        result = await session.run(code)
        if result.status != "timeout":
            break
    return result


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: f"{p.parent.name}/{p.stem}")
async def test_program(host: Host, path: Path):
    code = path.read_text()  # noqa: ASYNC240
    if "libc.syscall(" in code and platform.machine() != "x86_64":
        pytest.skip("written in this machine's foreign system call numbers")
    expected = code.split("\n")[1].removeprefix("# expect: ")
    statuses, _, output = expected.partition("=")
    before = host.state()
    children = {p.pid for p in psutil.Process().children(recursive=True)}
    walled = host.sandbox.protections()["hidden_root"].holds
    async with contextlib.AsyncExitStack() as stack:
        session, result = await run_in(host, host.sandbox, code)
        if walled and result.status == "timeout" and "timeout" not in statuses.split():
            # On a machine under load the time may be up before anything else is; that says nothing of the program.
            await session.close()
            session, result = await run_in(host, await stack.enter_async_context(LocalSandbox(PATIENT)), code)
        if walled:
            assert result.status in statuses.split(), result
        else:  # what the program is refused, and how, is another matter there; that it does no harm is not
            assert result.status != "sandbox_error", result
            output = ""
        assert "BREACH" not in result.output
        assert SECRET not in result.output
        assert len(result.output) < 2 * LIMITS.output
        if output:
            assert result.output == output

        after: ExecutionResult = await session.run("print('goes on')")
        assert after.status != "sandbox_error", after
        assert "BREACH" not in after.output
        await session.close()

    assert host.visitors() == 0
    assert host.state() == before
    assert (await patiently(host.sibling, "print(x)")).output == "7"
    async with host.sandbox.session() as fresh:
        result = await fresh.run("print(6 * 7, 'CANARY' in globals())")
        assert result.output == "42 False", result
    await only_the_pool_is_new(children, host.threads)


async def run_in(host: Host, sandbox: LocalSandbox, code: str) -> tuple[Session, ExecutionResult]:
    """Runs a program in a new session that knows what there is to attack."""
    session = sandbox.session()
    await session.run("\n".join(f"{name} = {value!r}" for name, value in host.names.items()))
    return session, await session.run(code)


async def only_the_pool_is_new(before: set[int], threads: int) -> None:
    """The program's processes must be gone; as many workers as there were wait for the next session."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        now = {p.pid for p in psutil.Process().children(recursive=True)}
        if len(now) <= len(before) + 2 and threading.active_count() < threads + 20:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{len(now)} processes, {len(before)} before")
