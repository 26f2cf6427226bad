"""What a machine must have for the sandbox to start, and what the next start clears away."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.hosts import can_unshare

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="about Linux")

START = """
import asyncio
from genprm_trl.errors import GenPRMError
from genprm_trl.sandbox import LocalSandbox
async def main():
    async with LocalSandbox() as sandbox, sandbox.session() as session:
        print((await session.run("print(6 * 7)")).output)
try:
    asyncio.run(main())
except GenPRMError as error:
    print(type(error).__name__, error)
"""
IN_A_ROOT = "import ctypes\nassert ctypes.CDLL(None).unshare(0x10020000) == 0\n"  # user and mount namespaces
COVER = "assert ctypes.CDLL(None, use_errno=True).mount(b'none', b'{}', b'tmpfs', 0, None) == 0\n"


def start(before: str = "", **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", before + START],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout
    return done.stdout.strip()


def limited(which: str, value: int) -> str:
    return f"import resource; resource.setrlimit(resource.{which}, ({value}, {value}))\n"


@pytest.mark.parametrize("files", [64, 79])
def test_too_few_descriptors_are_named(files: int):
    said = start(limited("RLIMIT_NOFILE", files))
    assert said.startswith("ConfigError")
    assert f"a process may open only {files} files, and the sandbox needs 80; raise the limit (ulimit -n)" in said


def test_few_descriptors_are_enough():
    assert start(limited("RLIMIT_NOFILE", 80)) == "42"


def test_no_files_may_be_written():
    said = start(limited("RLIMIT_FSIZE", 0))
    assert said.startswith("ConfigError The sandbox needs a directory for temporary files.")
    assert "ulimit -f" in said


@pytest.mark.skipif(not can_unshare(), reason="needs a mount namespace")
@pytest.mark.parametrize(
    ("path", "words"), [("/proc", "/proc is missing"), ("/dev", "needs /dev/null, which is missing here")]
)
def test_what_is_missing_is_named(path: str, words: str):
    said = start(IN_A_ROOT + COVER.format(path))
    assert said.startswith("ConfigError")
    assert words in said


def test_no_temporary_directory_is_named():
    before = "import tempfile\ntempfile._candidate_tempdir_list = lambda: ['/nowhere']\n"
    said = start(before)
    assert said.startswith("ConfigError The sandbox needs a directory for temporary files. Set TMPDIR to one, ")


def test_the_next_start_clears_away_what_was_left(tmp_path: Path):
    tmp_path.chmod(0o755)
    old = time.time() - 3600
    names = ("left", "locked", "young")
    for name in names:
        path = tmp_path / f"genprm-sandbox-{name}"
        (path / "below").mkdir(parents=True)
        (path / "below/file").write_text("x")
        if name != "young":
            os.utime(path, (old, old))
    (tmp_path / "genprm-sandbox-file").write_text("x")
    held = os.open(tmp_path / "genprm-sandbox-locked", os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert start(TMPDIR=str(tmp_path)) == "42"
    finally:
        os.close(held)
    remaining = sorted(path.name.rpartition("-")[2] for path in tmp_path.iterdir())
    assert remaining == ["file", "locked", "young"]


def test_a_killed_launcher_leaves_nothing_that_the_next_start_keeps(tmp_path: Path):
    tmp_path.chmod(0o755)
    killing = (
        "import os, psutil, signal\nfrom genprm_trl.sandbox import process\n"
        "process.remove_tree = lambda path: None\n"  # as where the host is killed with it
        "made = process.Zygote.close\n"
        "process.Zygote.close = lambda self: (self._process.kill(), made(self))\n"
    )
    assert start(killing, TMPDIR=str(tmp_path)) == "42"
    left = list(tmp_path.iterdir())
    for path in left:
        os.utime(path, (0, 0))
    assert start(TMPDIR=str(tmp_path)) == "42"
    assert not any(path.exists() for path in left)
