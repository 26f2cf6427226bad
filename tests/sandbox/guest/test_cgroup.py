"""Where the sandbox makes its control group. The kernel's side of it is reported by `protections()`."""

from pathlib import Path

import pytest

from genprm_trl.sandbox import LocalSandbox
from genprm_trl.sandbox.guest import cgroup, linux


def machine(root: Path, own: str, handing_on: list[str], version: int = 2) -> Path:
    """Files as the kernel shows them to a process in the group `own`."""
    (root / "proc/self").mkdir(parents=True)
    kind = "cgroup2 cgroup2" if version == 2 else "cgroup cgroup"
    (root / "proc/self/mountinfo").write_text(f"31 23 0:27 / /sys/fs/cgroup rw,nosuid - {kind} rw\n")
    (root / "proc/self/cgroup").write_text(f"0::{own}\n" if version == 2 else f"4:memory:{own}\n")
    top = root / "sys/fs/cgroup"
    place = top / own.lstrip("/")
    place.mkdir(parents=True)
    for group in [place, *place.parents]:
        name = "/" + str(group.relative_to(top)) if group != top else "/"
        (group / "cgroup.subtree_control").write_text("cpu memory pids\n" if name in handing_on else "cpu\n")
        if group == top:
            break
    return top


@pytest.mark.parametrize(("handing_on", "where"), [(["/a", "/"], "a"), (["/"], ""), (["/a/b", "/a", "/"], "a/b")])
def test_the_nearest_group_that_hands_on_its_controllers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handing_on: list[str], where: str
):
    top = machine(tmp_path, "/a/b", handing_on)
    with pytest.raises(OSError):  # an ordinary directory has no control files
        cgroup.make(7, tmp_path)
    # The directory was made in the right place and taken back when it turned out not to be a group.
    assert not any(p.name.startswith("genprm") for p in top.rglob("*"))
    made = []
    monkeypatch.setattr(linux, "write_to", lambda name, text, directory: made.append((name, text)))
    groups = cgroup.make(7, tmp_path, 9 << 30)
    groups.add(3, 1 << 30, 32)
    assert groups.path == top / where / "genprm-sandbox-7"
    assert ("./memory.max", str(9 << 30)) in made  # of all sessions
    assert ("3/memory.max", str((1 << 30) + cgroup.OVERHEAD)) in made
    assert ("3/pids.max", "32") in made
    (groups.path / "3/memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    assert groups.remove(3) is True
    (groups.path / "3/memory.events").unlink()
    cgroup.remove_all(groups.path)
    assert not groups.path.exists()


def test_version_one_bounds_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(
        "33 32 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "36 32 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    )
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/a/b\n1:cpu,cpuacct:/\n0::/\n")
    place = tmp_path / "sys/fs/cgroup/memory/a/b"
    place.mkdir(parents=True)
    made = []
    monkeypatch.setattr(linux, "write_to", lambda name, text, directory: made.append((name, text)))
    groups = cgroup.make(7, tmp_path, 9 << 30)
    groups.add(3, 1 << 30, 32)
    groups.join(3)
    assert groups.path == place / "genprm-sandbox-7"
    bound = str((1 << 30) + cgroup.OVERHEAD)
    assert made == [
        ("./memory.limit_in_bytes", str(9 << 30)),
        ("./memory.memsw.limit_in_bytes", str(9 << 30)),
        ("3/memory.limit_in_bytes", bound),
        ("3/memory.memsw.limit_in_bytes", bound),
        ("3/tasks", "0"),
    ]
    (groups.path / "3/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert groups.remove(3) is True


def test_no_group_to_be_had(tmp_path: Path):
    machine(tmp_path / "two", "/a", [])
    with pytest.raises(OSError, match="hands on"):
        cgroup.make(7, tmp_path / "two")
    machine(tmp_path / "one", "/a", ["/"], version=1)
    with pytest.raises(OSError, match="version 2"):
        cgroup.make(7, tmp_path / "one")


async def test_the_reason_is_reported():
    async with LocalSandbox() as sandbox:
        protection = sandbox.protections()["cgroup"]
    assert protection.holds or protection.reason
