"""The hostile corpus and the embedded sandbox's own tests once more, as an ordinary user, when run as root."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USER = 61_234  # an id that nobody has

# In a mount namespace of its own: makes the interpreter and the project reachable where a directory above them is
# closed to others (as /root is), then changes the user. Arguments: user id, paths to reach, "--", the command.
ENTER = r"""
set -e
user=$1; shift
mount --make-rprivate /
hold=$(mktemp -d /tmp/hold-XXXXXX)
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
exec setpriv --reuid="$user" --regid="$user" --clear-groups --inh-caps=-all --bounding-set=-all -- "$@"
"""


@pytest.mark.slow
def test_as_ordinary_user(tmp_path_factory: pytest.TempPathFactory):
    if os.geteuid() != 0:
        pytest.skip("runs as an ordinary user already")
    for tool in ("unshare", "setpriv", "mount"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("may not make a mount namespace")
    scratch = Path("/tmp") / f"genprm-ordinary-user-{os.getpid()}"
    scratch.mkdir()
    os.chown(scratch, USER, USER)
    tests = ["tests/hostile/test_hostile.py", "tests/sandbox/test_local.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={scratch}/base", *tests]
    enter = ["unshare", "-m", "bash", "-c", ENTER, "enter", str(USER)]
    reachable = [sys.base_prefix, sys.prefix, str(ROOT)]
    try:
        done = subprocess.run(
            [*enter, *reachable, "--", *command],
            cwd=ROOT,
            env={**os.environ, "HOME": str(scratch), "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=280,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
