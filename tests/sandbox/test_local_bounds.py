"""What a session, and all of them together, may hold of the machine, with control groups and without."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genprm_trl.errors import ConfigError
from genprm_trl.sandbox import Limits
from tests.helpers.hosts import REFUSING, can_unshare

pytestmark = [pytest.mark.serial, pytest.mark.skipif(sys.platform != "linux", reason="as Linux bounds it")]

# The file system of the control groups is covered: as where none may be made.
WITHOUT_GROUPS = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"', "sh"]
MEMORY = """
import asyncio, json
from genprm_trl.sandbox import Limits, LocalSandbox
CHILDREN = (
    "import os, time\\nends = os.pipe()\\n"
    "for _ in range(8):\\n"
    "    if os.fork() == 0:\\n"
    "        x = b'1' * (80 << 20); os.write(ends[1], b'x'); time.sleep(20); os._exit(0)\\n"
    "time.sleep(3); os.set_blocking(ends[0], False); print(len(os.read(ends[0], 99)))\\n"
    "for _ in range(8):\\n    print(os.waitpid(-1, os.WNOHANG)[0] > 0)"
)
TAKE = "x = b'1' * (90 << 20)\\nimport time; time.sleep(1)\\nprint(len(x) >> 20)"
async def main():
    limits = Limits(timeout=8, memory=150 << 20, total_memory=300 << 20)
    opened = LocalSandbox(limits, required=(), replay=False, max_concurrency=6)
    async with opened as sandbox, sandbox.session() as session:
        report = {"cgroup": sandbox.protections()["cgroup"].holds}
        result = await session.run(CHILDREN)
        # The kernel ends children in a group; who watches from outside ends the session.
        report["children"] = [result.status, result.output]
        report["after"] = (await session.run("print(1)")).output
        sessions = [sandbox.session() for _ in range(6)]
        results = await asyncio.gather(*(s.run(TAKE) for s in sessions))
        report["together"] = sorted((r.status, r.output) for r in results)
        report["kept"] = [(await s.run("print('x' in globals())")).output for s in sessions]
        for each in sessions:
            await each.close()
    print(json.dumps(report))
asyncio.run(main())
"""
FILES_AND_REST = """
import asyncio, json
from genprm_trl.sandbox import Limits, LocalSandbox
FILE = (
    "import os, time\\nf = open('f', 'wb', 0)\\nfor _ in range({}): f.write(bytes(1 << 20))\\n"
    "for _ in range({}): os.write(1, bytes(1 << 20))\\ntime.sleep(2); os.ftruncate(1, 0); print('kept')"
)
async def main():
    report = {}
    opened = LocalSandbox(Limits(memory=40 << 20, total_memory=400 << 20), required=(), replay=False)
    async with opened as sandbox:
        for name, counts in {"little": (10, 10), "file": (62, 16), "output": (16, 62)}.items():
            async with sandbox.session() as session:
                report[name] = (await session.run(FILE.format(*counts))).status
    async with LocalSandbox(Limits(memory=150 << 20, total_memory=200 << 20), required=(), replay=False) as sandbox:
        sessions = [sandbox.session() for _ in range(6)]
        await asyncio.sleep(0.5)
        for session in sessions:
            await session.run("x = b'1' * (90 << 20)")
        await asyncio.sleep(1)
        report["alive"] = sum(session._worker.idle for session in sessions)
        for session in sessions:
            await session.close()
    print(json.dumps(report))
asyncio.run(main())
"""
DISK = """
import asyncio, json
from genprm_trl.sandbox import Limits, LocalSandbox
PROGRAMS = {
    "bytes": "for n in range(400):\\n open(str(n), 'wb').write(bytes(1 << 20)); time.sleep(0.005)",
    "files": "for n in range(9000):\\n open(str(n), 'w').close()\\n if n % 20 == 0: time.sleep(0.005)",
    "nested": "for n in range(6000):\\n os.mkdir('d'); os.chdir('d')\\n if n % 20 == 0: time.sleep(0.005)",
    "no name": (
        "for n in range(40):\\n f = open('f' + str(n), 'wb', 0); keep.append(f)\\n f.write(bytes(1 << 20))\\n"
        " os.unlink('f' + str(n))"
    ),
    "other name": (
        "for n in range(400):\\n f = open('a', 'wb', 0); keep.append(f)\\n f.write(bytes(1 << 20))\\n"
        " os.rename('a', 'b')"
    ),
    "never a name": "while True:\\n f = os.open('.', os.O_TMPFILE | os.O_RDWR)\\n os.write(f, bytes(1 << 20))",
    "directories": "os.mkdir('a'); os.rmdir('a'); print(os.listdir('.'))",
}
async def main():
    report = {}
    async with LocalSandbox(Limits(timeout=20, disk=8 << 20), required=()) as sandbox:
        report["directory"] = sandbox._start().directory
        for name, code in PROGRAMS.items():
            async with sandbox.session() as session:
                result = await session.run("import os, time\\nkeep = []\\n" + code)
                report[name] = [result.status, result.output, result.message]
                report["after " + name] = (await session.run("print(1)")).output
        async with sandbox.session() as session:
            left = "if os.fork() == 0:\\n if os.fork() == 0: time.sleep(60)\\n os._exit(0)\\nos.wait()"
            await session.run("import os, time\\n" + left)
            await asyncio.sleep(1)
            import psutil
            [zygote] = psutil.Process().children()
            report["left"] = [str(c) for p in zygote.children() for c in p.children() if c.status() != "zombie"]
            report["goes on"] = (await session.run("print(time.time() > 0)")).output
    print(json.dumps(report))
asyncio.run(main())
"""


def report_of(program: str, *within: str) -> Any:
    done = subprocess.run([*within, sys.executable, "-c", program], capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def without_groups() -> list[str]:
    """The words before a command that hide the control groups from it."""
    if shutil.which("unshare") is None or subprocess.run([*WITHOUT_GROUPS, "true"], capture_output=True).returncode:
        pytest.skip("may not cover the control groups")
    return WITHOUT_GROUPS


def test_files_in_memory_and_sessions_at_rest_are_counted_without_groups():
    report = report_of(FILES_AND_REST, *without_groups())
    assert report == {"little": "ok", "file": "memory", "output": "memory", "alive": report["alive"]}
    assert report["alive"] <= 2


@pytest.mark.parametrize("groups", [True, False])
def test_memory_of_a_session_and_of_all(groups: bool):
    report = report_of(MEMORY, *([] if groups else without_groups()))
    assert groups or not report["cgroup"]
    assert report["children"][0] == "memory" or "True" in report["children"][1]
    assert report["after"] == "1"
    together = [tuple(each) for each in report["together"]]
    assert set(together) <= {("ok", "90"), ("memory", "Code execute Error: MemoryError: ")}
    assert set(report["kept"]) == {"True", "False"}
    assert report["kept"].count("True") <= 3


@pytest.mark.skipif(not can_unshare(), reason="needs a user namespace to refuse others in")
def test_files_of_a_session_without_namespaces():
    """They lie in a directory on the host's disk, which the sandbox counts."""
    report = report_of(REFUSING + DISK)
    for name in ("bytes", "files", "nested"):
        assert report[name][0] == "killed", (name, report[name])
        assert "took more than its directory" in report[name][2]
    refused = "Code execute Error: PermissionError: [Errno 1] Operation not permitted"
    for name in ("no name", "other name", "never a name"):  # what could no longer be counted
        assert report[name][0] == "error"
        assert report[name][1].startswith(refused)
    assert report["directories"][:2] == ["ok", "[]"]
    for name in ("bytes", "files", "nested", "no name", "other name", "never a name", "directories"):
        assert report[f"after {name}"] == "1"
    assert report["left"] == []
    assert report["goes on"] == "True"
    assert not Path(report["directory"]).exists()


@pytest.mark.parametrize("size", [0, -1])
def test_the_bound_is_checked(size: int):
    with pytest.raises(ConfigError, match="total_memory"):
        Limits(total_memory=size)
    assert Limits(total_memory=os.sysconf("SC_PAGE_SIZE")).total_memory
