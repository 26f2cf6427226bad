"""Where the kernel refuses namespaces, Landlock or both: what still runs, what is refused, and what is said."""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from genprm_trl.sandbox.guest.wire import REQUEST, RESULT
from tests.helpers.hosts import ELSEWHERE, REFUSING, another_host, can_unshare
from tests.helpers.paths import ROOT

PROGRAM = """
import asyncio, json, logging
from genprm_trl.errors import ConfigError
from genprm_trl.sandbox import Limits, LocalSandbox
async def main():
    report = {}
    async with LocalSandbox(Limits(timeout=1, grace=1)) as sandbox, sandbox.session() as session:
        report["missing"] = [n for n, p in sandbox.protections().items() if not p.holds and p.reason]
        report["directory"] = sandbox._start().directory
        for name, code in {
            "state": "x = 41", "output": "x += 1; print(x)",
            "file": "open('f', 'w').write('a'); print(open('f').read())",
            "kill": f"import os; os.kill({os.getpid()}, 9)",
            "socket": "import socket; socket.socket()",
            "died": "import os; os._exit(1)", "replayed": "print(x)",
            "child": "import os, time\\nif os.fork() == 0: time.sleep(60)",
            "hard": "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\\nwhile True: pass",
        }.items():
            result = await session.run(code)
            report[name] = [result.status, result.output or result.message]
    try:
        LocalSandbox(required=("network_namespace",)).protections()
    except ConfigError as error:
        report["refusal"] = str(error)
    print(json.dumps(report))
import os
asyncio.run(main())
"""

WITHOUT_A_WALL = """
import asyncio, json, logging
from genprm_trl.errors import ConfigError
from genprm_trl.sandbox import Limits, LocalSandbox
from genprm_trl.sandbox.options import SandboxOptions
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
async def main():
    report = {}
    try:
        await LocalSandbox().check()
    except ConfigError as error:
        report["default"] = str(error)
    required = SandboxOptions(allow_weak_sandbox=True).required()
    async with LocalSandbox(Limits(timeout=1, grace=1), required=required) as sandbox, sandbox.session() as session:
        report["held"] = [n for n, p in sandbox.protections().items() if p.holds]
        report["reasons"] = sorted({p.reason for p in sandbox.protections().values() if not p.holds})
        report["directory"] = sandbox._start().directory
        for name, code in {
            "state": "x = 41", "output": "x += 1; print(x)", "error": "1/0",
            "file": "open('f', 'w').write('a'); print(open('f').read())",
            "environment": "import os; print(dict(os.environ))",
            "soft": "while True: pass", "kept": "print(x)",
            "died": "import os; os._exit(1)", "replayed": "print(x)",
            "hard": "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\\nwhile True: pass",
        }.items():
            result = await session.run(code)
            report[name] = [result.status, result.output]
    try:
        LocalSandbox(required=("no_network", "hidden_root")).protections()
    except ConfigError as error:
        report["refusal"] = str(error)
    print(json.dumps(report))
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux" or not can_unshare(), reason="needs a user namespace to refuse others in")
def test_without_namespaces():
    done = subprocess.run([sys.executable, "-c", REFUSING + PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {"user_namespace", "pid_namespace", "mount_namespace", "network_namespace", "hidden_root"} <= set(
        report["missing"]
    )
    assert not {"separate_process", "limits", "empty_environment", "no_new_privs", "seccomp", "no_network"} & set(
        report["missing"]
    )
    assert report["output"] == ["ok", "42"]
    assert report["file"] == ["ok", "a"]
    # The system call filter holds what the namespaces would have: signals reach nobody else, and there is no network.
    assert report["kill"] == ["error", "Code execute Error: PermissionError: [Errno 1] Operation not permitted"]
    assert report["socket"] == ["error", "Code execute Error: PermissionError: [Errno 1] Operation not permitted"]
    assert report["died"][0] == "killed"
    assert report["replayed"] == ["ok", "42"]
    assert report["child"][0] == "ok"
    assert report["hard"][0] == "timeout"
    assert "network_namespace" in report["refusal"]
    assert "user.max_user_namespaces" in report["refusal"]
    assert not Path(report["directory"]).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, to be told that it is another machine")
def test_where_there_is_no_wall():
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE + WITHOUT_A_WALL], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["held"] == ["separate_process", "limits", "empty_environment"]
    assert report["reasons"] == ["needs Linux on x86_64 or aarch64"]
    assert "WARNING Sandbox protections in force: separate_process, limits, empty_environment. Not" in done.stderr
    assert (
        "WARNING The sandbox is weak, and that was accepted: a program that a model writes can use your" in done.stderr
    )
    for words in ("no_network: needs Linux", "files: needs Linux", "--sandbox http://", "--allow_weak_sandbox"):
        assert words in report["default"]
    assert "sysctl" not in report["default"]  # of another system
    assert report["output"] == report["replayed"] == ["ok", "42"]
    assert report["kept"] == ["ok", "42"]
    assert report["error"] == ["error", "Code execute Error: ZeroDivisionError: division by zero"]
    assert report["file"] == ["ok", "a"]
    assert report["environment"] == ["ok", "{}"]
    assert report["soft"][0] == report["hard"][0] == "timeout"
    assert report["died"][0] == "killed"
    assert "no_network: needs Linux on x86_64 or aarch64" in report["refusal"]
    assert not Path(report["directory"]).exists()


# A child that the interpreter does not know of keeps the channel, and answers the requests of later blocks.
CHILD = f"""
import ctypes, os, struct
request, result = struct.Struct({REQUEST.format!r}), struct.Struct({RESULT.format!r})
if ctypes.CDLL(None).syscall({{"x86_64": 56, "aarch64": 220}}[{platform.machine()!r}], 0, 0, 0, 0, 0) == 0:
    if NESTED and os.fork(): os._exit(0)
    while len(head := os.read(63, request.size)) == request.size:
        nonce, _, _, size = request.unpack(head)
        while size: size -= len(os.read(63, size))
        os.write(63, result.pack(nonce, 0, 0.0, 6) + b"FORGED")
    os._exit(0)
print("left")
"""
LATER_BLOCKS = """
import asyncio, json, sys
from genprm_trl.sandbox import Limits, LocalSandbox
async def main():
    report = []
    async with LocalSandbox(Limits(timeout=2, grace=1), required=()) as sandbox, sandbox.session() as session:
        held = sandbox.protections()["pid_namespace"].holds
        for code in (sys.argv[1], *["print('mine')"] * 4):
            report.append((await session.run(code)).output)
    print(json.dumps([held, report]))
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux" or not can_unshare(), reason="needs a user namespace to refuse others in")
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("refusing", ["", REFUSING])
def test_no_child_answers_for_the_blocks_that_come_at_once(refusing: str, nested: bool):
    program = CHILD.replace("NESTED", str(nested))
    done = subprocess.run(
        [sys.executable, "-c", refusing + LATER_BLOCKS, program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    held, outputs = json.loads(done.stdout)
    assert not (refusing and held)
    assert outputs == ["left", *["mine"] * 4]


# Arguments: the sandbox's options, as Python.
OPENED = """
import asyncio, json, logging, sys
from genprm_trl.errors import ConfigError
from genprm_trl.sandbox.options import SandboxOptions
logging.basicConfig(format="%(levelname)s %(message)s")
async def main():
    async with SandboxOptions(**eval(sys.argv[1])).open_sandbox() as sandbox, sandbox.session() as session:
        result = await session.run(sys.argv[2])
        print(result.status, result.output)
try:
    asyncio.run(main())
except ConfigError as error:
    print("refused", error)
"""


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="genprm-open-") as directory:
        Path(directory).chmod(0o777)
        yield Path(directory)


@pytest.mark.parametrize(
    ("without", "options", "answer"),
    [
        ("namespaces,landlock", {}, "refused"),
        ("namespaces,landlock", {"allow_weak_sandbox": True}, "ok secret"),
        ("namespaces,landlock", {"allow_weak_sandbox": True, "sandbox_require": ["files"]}, "refused"),
        ("namespaces", {}, "error Code execute Error: PermissionError"),
        ("namespaces", {"sandbox_require": ["hidden_root"]}, "refused"),
        ("landlock", {}, "error Code execute Error: FileNotFoundError"),
    ],
)
def test_files_are_out_of_reach_or_nothing_starts(
    open_directory: Path, without: str, options: dict[str, object], answer: str
):
    user = 0 if "namespaces" in without else 61_234  # root of a container has no namespaces anyway
    canary = open_directory / "canary"
    canary.write_text("secret")
    code, environment = f"print(open({str(canary)!r}).read())", {**os.environ, "TMPDIR": str(open_directory)}
    done = subprocess.run(
        [*another_host(without=without, user=user), sys.executable, "-c", OPENED, repr(options), code],
        capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120,
    )  # fmt: skip
    assert done.stdout.startswith(answer), done.stdout + done.stderr
    if answer == "refused":
        assert "hidden_root: needs the mount namespace" in done.stdout
        assert "docker run --cap-add SYS_ADMIN" in done.stdout
    if "files" in done.stdout:
        assert "; landlock: " in done.stdout
        assert "--allow_weak_sandbox" in done.stdout
    is_weak = answer == "ok secret"
    assert (
        "The sandbox is weak, and that was accepted: a program that a model writes can read" in done.stderr
    ) == is_weak
