"""The hostile corpus once more on hosts unlike a root shell: an ordinary user, and containers that refuse namespaces.

All of them run at the same time, since programs that attack a sandbox mostly make it wait.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from genprm_trl.sandbox.guest.tidy import remove_tree
from tests.helpers.hosts import another_host
from tests.helpers.paths import ROOT

USER = 61_234  # an id that nobody has
CORPUS = "tests/hostile/test_hostile.py"
ASSUMES_NAMESPACES = f"--deselect={CORPUS}::test_every_protection_holds_here"

HOSTS = {  # what they lack, user id, tests
    "ordinary user": ("", USER, [CORPUS, "tests/sandbox/test_local.py"]),
    "container, root": ("namespaces", 0, [CORPUS, ASSUMES_NAMESPACES]),
    "container, ordinary user": ("namespaces", USER, [CORPUS, ASSUMES_NAMESPACES]),
}


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, subprocess.Popen[str]]]:
    hosts = {name: another_host(without=without, user=user) for name, (without, user, _) in HOSTS.items()}
    started: dict[str, subprocess.Popen[str]] = {}
    top = tempfile.mkdtemp(prefix="genprm-hosts-", dir="/tmp")
    try:
        Path(top).chmod(0o755)
        for number, (name, (_, user, tests)) in enumerate(HOSTS.items()):
            scratch = Path(top) / str(number)
            scratch.mkdir()
            os.chown(scratch, user, user)
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                f"--basetemp={scratch}/base",
                *tests,
            ]
            with (scratch / "output").open("w") as output:
                started[name] = subprocess.Popen(
                    [*hosts[name], *command],
                    cwd=ROOT,
                    env={**os.environ, "HOME": str(scratch), "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            started[name].output = scratch / "output"  # type: ignore[attr-defined]
        yield started
    finally:
        for run in started.values():
            run.kill()
            run.wait()
        remove_tree(top)  # a test that was cut off may have left anything


@pytest.mark.alone
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", HOSTS)
def test_on(runs: dict[str, subprocess.Popen[str]], name: str):
    code = runs[name].wait(1190)
    output = runs[name].output.read_text()  # type: ignore[attr-defined]
    assert code == 0, output[-8000:]
    assert " passed" in output
