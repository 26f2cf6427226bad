"""Hosts unlike a root shell: other users, containers, kernels that refuse namespaces or Landlock, other machines.

The wall that is tested on them is the real one. The kernel refuses what the host would not have.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

# In a separate mount namespace: makes the interpreter and the project reachable where a directory above them is
# closed to others (as /root is). Arguments: paths to reach, "--", the command.
ENTER = r"""
set -e
mount --make-rprivate /
hold=$(mktemp -d "${TMPDIR:-/tmp}/hold-XXXXXX")
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
# and mounts; on an old kernel without Landlock, too; then the user. Arguments: what is lacking, user id, the command.
BECOME = """
import ctypes, os, platform, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
lacking, user, command = sys.argv[1].split(","), int(sys.argv[2]), sys.argv[3:]
kept, refused = set(), {}
if "namespaces" in lacking:
    kept = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}
    calls = {"x86_64": (272, 308, 165, 155), "aarch64": (97, 268, 40, 41)}[platform.machine()]
    # unshare, setns, mount, pivot_root, then open_tree, move_mount, mount_setattr
    refused |= dict.fromkeys((*calls, 428, 429, 442), 1)
if "landlock" in lacking:
    refused |= dict.fromkeys((444, 445, 446), 38)
if refused:
    code = [(0x20, 0, 0, 0)]
    for number, error in refused.items():
        code += [(0x15, 0, 1, number), (0x06, 0, 0, 0x50000 + error)]
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
# To be another machine (`platform.machine()` gives i686 or armv8l), for which, as on macOS, there is no wall.
ELSEWHERE = "import ctypes; ctypes.CDLL(None).personality(8)\n"

# A separate user namespace in which no further namespace of any kind may be made.
REFUSING = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
uid, gid = os.geteuid(), os.getegid()
if libc.unshare(0x10000000):
    sys.exit(77)
for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
    open(f"/proc/self/{name}", "w").write(text)
for kind in ("user", "mnt", "net", "ipc", "uts", "pid"):
    open(f"/proc/sys/user/max_{kind}_namespaces", "w").write("0")
"""


def can_unshare() -> bool:
    """Whether a user namespace can be made here, to refuse others in."""
    pid = os.fork()
    if pid == 0:
        os._exit(ctypes.CDLL(None).unshare(0x10000000) and 1)
    return os.waitpid(pid, 0)[1] == 0


def another_host(*, without: str = "", user: int = 0, reach: bool = True) -> list[str]:
    """The words before a command that let it run on another host. Skips the test where that cannot be had.

    Args:
        without: What it lacks: "namespaces", "landlock", or both with a comma between.
        user: The user's id.
        reach: Whether every user of the host can read the interpreter and the project.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root, to become others")
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("needs another machine")
    become = [sys.executable, "-c", BECOME, without, str(user)]
    if not reach:
        return become
    for tool in ("unshare", "mount"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("may not make a mount namespace")
    return ["unshare", "-m", "bash", "-c", ENTER, "enter", sys.base_prefix, sys.prefix, str(ROOT), "--", *become]
