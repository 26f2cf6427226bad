"""The hostile corpus once more on hosts unlike a root shell: an ordinary user, and containers that refuse namespaces.

All of them run at the same time, since programs that attack a sandbox mostly make it wait.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from genprm_trl.sandbox.guest.tidy import remove_tree
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.serial

USER = 61_234  # an id that nobody has
CORPUS = "tests/hostile/test_hostile.py"
ASSUMES_NAMESPACES = f"--deselect={CORPUS}::test_every_protection_holds_here"

# In a separate mount namespace: makes the interpreter and the project reachable where a directory above them is
# closed to others (as /root is). Arguments: paths to reach, "--", the command.
ENTER = r"""
set -e
mount --make-rprivate /
hold=$(mktemp -d "$TMPDIR/hold-XXXXXX")
mount -t tmpfs -o mode=755 none "$hold"
paths=()
while [ "$1" != "--" ]; do
    top=/$(echo "$1" | cut -d/ -f2)
    if [ -z "$(find "$top" -maxdepth 0 -perm -o+x)" ]; then
        mkdir -p "$hold/${#paths[@]}"; mount --rbind "$1" "$hold/${#paths[@]}"; paths+=("$1")
    fi
    shift
done
shift
for path in "${paths[@]}"; do
    top=/$(echo "$path" | cut -d/ -f2)
    mountpoint -q "$top" || mount -t tmpfs -o mode=755 none "$top"
done
for i in "${!paths[@]}"; do
    mkdir -p "${paths[$i]}"; mount --rbind "$hold/$i" "${paths[$i]}"
done
exec "$@"
"""

# Becomes what a container engine starts by default: its fourteen capabilities, and a filter that refuses namespaces
# and mounts; then the user. Arguments: whether to be a container, user id, the command.
BECOME = """
import ctypes, os, platform, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
container, user, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
kept = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31} if container else set()
if container:
    refused = {"x86_64": (272, 308, 165, 155), "aarch64": (97, 268, 40, 41)}[platform.machine()]
    code = [(0x20, 0, 0, 0)]  # unshare, setns, mount, pivot_root, then open_tree, move_mount, mount_setattr
    for number in (*refused, 428, 429, 442):
        code += [(0x15, 0, 1, number), (0x06, 0, 0, 0x50001)]
    buffer = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *c) for c in [*code, (0x06, 0, 0, 0x7FFF0000)]))
    program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(code) + 1, ctypes.addressof(buffer)))
    assert libc.prctl(22, 2, ctypes.addressof(program), 0, 0) == 0
for capability in range(64):
    if capability not in kept:
        libc.prctl(24, capability, 0, 0, 0)
mask = sum(1 << c for c in kept)
if user:
    os.setgroups([]); os.setresgid(user, user, user); os.setresuid(user, user, user)
else:
    halves = (mask & 0xFFFFFFFF, mask & 0xFFFFFFFF, 0, mask >> 32, mask >> 32, 0)
    assert libc.syscall({"x86_64": 126, "aarch64": 91}[platform.machine()],
                        (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*halves)) == 0
os.execvp(command[0], command)
"""
HOSTS = {  # container?, user id, tests
    "ordinary user": (False, USER, [CORPUS, "tests/sandbox/test_local.py"]),
    "container, root": (True, 0, [CORPUS, ASSUMES_NAMESPACES]),
    "container, ordinary user": (True, USER, [CORPUS, ASSUMES_NAMESPACES]),
}


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, subprocess.Popen[str]]]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become others")
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("needs another machine")
    for tool in ("unshare", "mount"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("may not make a mount namespace")
    started: dict[str, subprocess.Popen[str]] = {}
    top = tempfile.mkdtemp(prefix="genprm-hosts-", dir="/tmp")
    try:
        Path(top).chmod(0o755)
        for number, (name, (container, user, tests)) in enumerate(HOSTS.items()):
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
            reach = ["unshare", "-m", "bash", "-c", ENTER, "enter", sys.base_prefix, sys.prefix, str(ROOT), "--"]
            become = [sys.executable, "-c", BECOME, str(int(container)), str(user)]
            with (scratch / "output").open("w") as output:
                started[name] = subprocess.Popen(
                    [*reach, *become, *command],
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
