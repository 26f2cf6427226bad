"""The options that say where code runs."""

from __future__ import annotations

import pytest

from genprm_trl.errors import ConfigError
from genprm_trl.sandbox import FusionSandbox, LocalSandbox, SandboxOptions
from genprm_trl.sandbox.local import REQUIRED


def test_accepting_a_weak_wall_takes_back_only_what_is_not_asked_for():
    assert SandboxOptions().required() == REQUIRED
    assert SandboxOptions(sandbox_require=["seccomp"]).required() == (*REQUIRED, "seccomp")
    weak = SandboxOptions(allow_weak_sandbox=True)
    assert weak.required() == ("separate_process", "limits")
    kept = SandboxOptions(allow_weak_sandbox=True, sandbox_require=["no_network", "limits"])
    assert kept.required() == ("separate_process", "limits", "no_network")


def test_names_may_stand_in_one_text():
    options = SandboxOptions(sandbox_require="seccomp hidden_root,cgroup")  # type: ignore[arg-type]
    assert options.sandbox_require == ["seccomp", "hidden_root", "cgroup"]
    assert SandboxOptions(sandbox_require=[]).given_sandbox() == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sandbox": "127.0.0.1:1"}, "sandbox must be local or an address"),
        ({"sandbox": None}, "sandbox must be local or an address"),
        ({"sandbox_require": ["file"]}, "unknown protection file; known: .*files"),
        ({"sandbox": "http://127.0.0.1:1", "sandbox_require": ["files"]}, "about this machine, not about a server"),
        ({"allow_weak_sandbox": "false"}, "allow_weak_sandbox must be true or false, not 'false'"),
    ],
)
def test_wrong_values_are_refused(options: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        SandboxOptions(**options)  # type: ignore[arg-type]


def test_what_is_opened():
    local = SandboxOptions(sandbox_require=["seccomp"], allow_weak_sandbox=True).open_sandbox()
    assert isinstance(local, LocalSandbox)
    assert local._required == ("separate_process", "limits", "seccomp")
    pytest.importorskip("sandbox_fusion")
    server = SandboxOptions(sandbox="http://127.0.0.1:9")
    assert isinstance(server.open_sandbox(), FusionSandbox)
    with pytest.raises(ConfigError, match="cannot be used"):
        server.check_sandbox()
