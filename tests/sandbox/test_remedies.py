"""The remedy that fits the machine: one command where it can be known which."""

from __future__ import annotations

from pathlib import Path

import pytest

from genprm_trl.sandbox.guest import linux
from genprm_trl.sandbox.guest.isolation import NAMES
from genprm_trl.sandbox.remedies import CONTAINER, ELSEWHERE, NAMESPACES, missing_text, remedy_for

pytestmark = pytest.mark.skipif(not linux.SUPPORTED, reason="needs a machine with a wall")


def machine(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "remedy"),
    [
        ({"proc__sys__user__max_user_namespaces": "0\n"}, "sysctl -w user.max_user_namespaces=10000"),
        ({"proc__sys__kernel__unprivileged_userns_clone": "0\n"}, "sysctl -w kernel.unprivileged_userns_clone=1"),
        (
            {"proc__sys__kernel__apparmor_restrict_unprivileged_userns": "1\n"},
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ({"run__.containerenv": ""}, CONTAINER),
        ({"proc__self__status": "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"}, CONTAINER),
        ({"proc__self__status": "Name:\tx\nSeccomp:\t0\n", "proc__sys__user__max_user_namespaces": "9\n"}, NAMESPACES),
    ],
)
def test_namespaces_are_refused_by_one_thing_or_another(tmp_path: Path, files: dict[str, str], remedy: str) -> None:
    root = machine(tmp_path, **files)
    assert remedy_for("hidden_root", root=root).endswith(remedy)
    for name in ("files", "no_network"):
        assert remedy_for(name, root=root) == remedy_for("hidden_root", root=root)


def test_every_remedy_is_said_once() -> None:
    names = ("hidden_root", "private_tmp", "limits")
    lines = missing_text(dict.fromkeys(NAMES, "refused"), names).splitlines()
    assert lines == ["  hidden_root: refused", f"    {remedy_for('hidden_root')}", *lines[2:]]
    assert lines[2:] == ["  private_tmp: refused", "  limits: refused"]
    lines = missing_text(dict.fromkeys(NAMES, "refused"), ("no_network", "files")).splitlines()
    assert lines[1:] == [f"    {remedy_for('files')}", "  files: refused", f"  Otherwise {ELSEWHERE}"]


def test_elsewhere_there_is_no_wall_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "SUPPORTED", False)
    assert {remedy_for(name) for name in NAMES} == {ELSEWHERE}
