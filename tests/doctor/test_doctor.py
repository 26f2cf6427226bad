"""`genprm doctor`: what it finds on a machine as it should be, and on ones with broken packages."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from genprm_trl.cli.main import main
from genprm_trl.doctor import code_execution, hardware, hub_access
from genprm_trl.doctor.checkup import examine
from genprm_trl.doctor.finding import Finding
from genprm_trl.doctor.probing import ProbeResult, run_probes
from genprm_trl.doctor.requirements import judge, needed_packages
from genprm_trl.sandbox.local import REMEDIES
from tests.helpers.paths import ROOT

# Tells a file of every connection and look-up.
AUDIT = """
import os, sys
open(os.environ["CONNECTIONS"], "a").write("watched\\n")
def audit(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open(os.environ["CONNECTIONS"], "a") as file:
            file.write(f"{event} {arguments[1:] if event == 'socket.connect' else arguments}\\n")
sys.addaudithook(audit)
"""


@pytest.fixture
def modules(tmp_path, monkeypatch) -> Path:
    """A directory whose modules come before those that are installed, here and in child processes."""
    directory = tmp_path / "modules"
    directory.mkdir()
    path = [str(directory), str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    monkeypatch.syspath_prepend(directory)
    return directory


def install(modules: Path, name: str, version: str, source: str = "") -> None:
    """Installs a package that consists of one module."""
    (modules / f"{name}.py").write_text(source)
    information = modules / f"{name}-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def findings_of(*lines: str, **probes: ProbeResult) -> list[Finding]:
    return [finding for package in needed_packages(list(lines)) for finding in judge(package, probes)]


def test_what_is_said_about_packages(modules):
    for name, version in (("good", "1.5"), ("newer", "2.0rc1"), ("broken", "1.0"), ("ray", "1.0")):
        install(modules, name, version)
    found = findings_of(
        *("good<2,>=1.2", "newer<2", "broken>=1", "never-there>=3", 'elsewhere>=1; sys_platform == "none"'),
        *('ray>=2; extra == "ray"', 'vllm-not-there; extra == "vllm"', 'pytest; extra == "dev"'),
        broken=ProbeResult(error="ImportError: libcudart.so"),
    )
    assert found == [
        Finding("libraries", "good", "ok", "1.5 (supported: >=1.2,<2)"),
        Finding("libraries", "newer", "failed", "2.0rc1 is outside the supported range <2", "pip install 'newer<2'"),
        Finding(
            *("libraries", "broken", "failed", "1.0 is installed and does not work: ImportError: libcudart.so"),
            "pip install 'broken>=1' --force-reinstall --no-deps",
        ),
        Finding("libraries", "never-there", "failed", "not installed", "pip install 'never-there>=3'"),
        Finding(
            *("extras", "vllm-not-there", "absent", "not installed (generation with vLLM in this process)"),
            "pip install 'genprm-trl[vllm]'",
        ),
        Finding(
            *("extras", "ray", "degraded", "1.0 is outside the supported range >=2 (making data on several machines)"),
            "pip install 'genprm-trl[ray]'",
        ),
    ]


def test_our_own_metadata_can_be_read():
    packages = {package.requirement.name: package for package in needed_packages()}
    assert packages["trl"].extra is None
    assert packages["trl"].supported.startswith(">=")
    assert packages["vllm"].extra == "vllm"
    assert packages["lm-eval"].module == "lm_eval"
    assert "pytest" not in packages


async def test_a_package_that_ends_or_hangs_a_process_fails_alone(modules):
    sources = {
        "aborts": "import os; os.abort()",
        "exits": "raise SystemExit(3)",
        "leaves": "import os; os._exit(4)",
        "raises": "raise ImportError('no such thing\\nand more')",
        "prints": "import os; print('{}'); os.write(1, b'\\xff\\n')",
    }
    for name, source in sources.items():
        (modules / f"{name}.py").write_text(source)
    results = await run_probes([*sources, "no_such_module"], patience=60)
    assert {name: result.error for name, result in results.items()} == {
        "aborts": "ended the process (SIGABRT)",
        "exits": "SystemExit: 3",
        "leaves": "ended the process (exit code 4)",
        "raises": "ImportError: no such thing",
        "prints": "",
        "no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
    }


async def test_a_package_that_hangs_is_given_up(modules):
    (modules / "hangs.py").write_text("import time; time.sleep(600)")
    results = await run_probes(["hangs"], patience=3)
    assert results["hangs"].error == "has not finished after 3 s"


@pytest.mark.slow
def test_the_whole_report_sends_nothing(modules, tmp_path, capsys, monkeypatch):
    (modules / "sitecustomize.py").write_text(AUDIT)
    monkeypatch.setenv("CONNECTIONS", str(tmp_path / "connections"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert main(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "hf_secret" not in out + err
    assert err == ""
    report = json.loads(out)
    assert report["works"] is True
    found = {finding["name"]: finding for finding in report["findings"]}
    for name in (
        "Python",
        "torch",
        "transformers",
        "trl",
        "trainers",
        "grading",
        "running code",
        "no_network",
        "login",
    ):
        assert found[name]["status"] == "ok", found[name]
    assert str(tmp_path / "home") in found["cache"]["detail"]
    assert [f for f in report["findings"] if f["status"] != "ok" and not f["fix"]] == []
    assert {*(tmp_path / "connections").read_text().splitlines()} == {"watched"}


def test_a_machine_without_trl_and_torch_still_gets_a_report(modules, capsys):
    # What everything else needs is broken, so most of it cannot be imported: the report comes all the same.
    (modules / "torch.py").write_text("raise OSError('libtorch_cpu.so: cannot open shared object file')")
    (modules / "trl.py").write_text("import os; os.abort()")
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    [torch] = [line for line in lines if line.startswith("  FAILED  torch ")]
    assert torch.endswith("does not work: OSError: libtorch_cpu.so: cannot open shared object file")
    fix = lines[lines.index(torch) + 1]
    assert "→ pip install 'torch>=" in fix
    [trl] = [line for line in lines if line.startswith("  FAILED  trl ")]
    assert trl.endswith("does not work: ended the process (SIGABRT)")
    assert any(line.startswith("  FAILED  trainers ") for line in lines)
    assert any(line.startswith("  ok      running code ") for line in lines)
    assert lines[-1].startswith("Something necessary does not work: ")


async def test_a_check_that_breaks_off_is_a_finding(monkeypatch):
    async def no_probes(names, **_):
        raise OSError("no more processes")

    async def no_sandbox():
        yield Finding("sandbox", "running code", "ok", "")
        raise RuntimeError("gone")

    monkeypatch.setattr("genprm_trl.doctor.checkup.run_probes", no_probes)
    monkeypatch.setattr(code_execution, "local_sandbox", no_sandbox)
    monkeypatch.setattr(no_sandbox, "__module__", code_execution.__name__)
    found = {finding.name: finding async for finding in examine()}
    assert found["trainers"].detail == "could not be tried: OSError: no more processes"
    assert found["running code"].status == "failed"
    assert found["running code"].detail == "could not be examined: RuntimeError: gone"


def devices(*found: dict, build: str | None = "13.0", mps: bool = False) -> list[Finding]:
    return list(hardware.accelerators(ProbeResult({"devices": found, "cuda_build": build, "mps": mps})))


def test_accelerators(monkeypatch):
    card = {"name": "NVIDIA H100", "memory": 80 * 2**30, "capability": "9.0"}
    [good, bad] = devices(card, card | {"error": "RuntimeError: CUDA error: no kernel image is available"})
    assert (good.name, good.status, good.detail) == ("GPU 0", "ok", "NVIDIA H100, 80.0 GiB, compute capability 9.0")
    assert (bad.name, bad.status) == ("GPU 1", "degraded")
    assert "no kernel image" in bad.detail
    [apple] = devices(mps=True)
    assert apple.status == "ok"

    monkeypatch.setattr(hardware, "_has_nvidia_card", lambda: False)
    assert [finding.status for finding in devices()] == ["absent"]
    monkeypatch.setattr(hardware, "_has_nvidia_card", lambda: True)
    assert "built for the CPU alone" in devices(build=None)[0].detail
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "unset it" in devices()[0].fix
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "nvidia-smi" in devices()[0].fix


def test_memory_of_a_container(tmp_path):
    assert hardware._cgroup_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware._cgroup_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("1073741824\n")
    assert hardware._cgroup_limit(tmp_path) == 2**30


def hub(**facts: object) -> dict[str, Finding]:
    known = {"logged_in": True, "endpoint": "https://hub", "offline": False, "cache": "/", "home": "/"}
    return {finding.name: finding for finding in hub_access.login_and_cache(ProbeResult(known | facts))}


def test_hub_login_and_cache(tmp_path, monkeypatch):
    assert hub()["login"].status == "ok"
    assert hub(logged_in=False)["login"].fix == "hf auth login"
    assert "HF_HUB_OFFLINE" not in hub()
    assert hub(offline=True)["HF_HUB_OFFLINE"].status == "degraded"
    deep = str(tmp_path / "not" / "yet" / "there")
    assert deep in hub(cache=deep)["cache"].detail
    monkeypatch.setattr(hub_access, "ROOM", 2**60)
    assert "HF_HOME" in hub(cache=deep)["cache"].fix
    file = tmp_path / "file"
    file.touch()
    assert hub(cache=str(file / "below"))["cache"].detail.endswith("cannot be written")


def test_a_missing_protection_is_as_grave_as_the_sandbox_takes_it(monkeypatch):
    from genprm_trl.sandbox import LocalSandbox, Protection

    reasons = {"no_network": "refused", "hidden_root": "refused", "cgroup": "none"}
    monkeypatch.setattr(
        LocalSandbox, "protections", lambda self: {name: Protection(name, False, why) for name, why in reasons.items()}
    )

    async def look() -> dict[str, Finding]:
        return {finding.name: finding async for finding in code_execution.local_sandbox()}

    found = asyncio.run(look())
    assert {name: found[name].status for name in reasons} == {
        "no_network": "failed", "hidden_root": "degraded", "cgroup": "absent"
    }  # fmt: skip
    assert all(found[name].fix == REMEDIES[name] for name in reasons)
    assert found["running code"].status == "ok"


def test_a_fusion_server_that_does_not_answer(monkeypatch):
    async def look() -> list[Finding]:
        return [finding async for finding in code_execution.fusion_server()]

    monkeypatch.delenv("SANDBOX_FUSION_ENDPOINT", raising=False)
    assert asyncio.run(look()) == []
    monkeypatch.setenv("SANDBOX_FUSION_ENDPOINT", "http://127.0.0.1:9")
    [finding] = asyncio.run(look())
    assert finding.status == "degraded"
    assert "http://127.0.0.1:9" in finding.detail


@pytest.mark.parametrize("words", [["--jsn"], ["more"]])
def test_wrong_words(words, capsys):
    assert main(["doctor", *words]) == 2
    assert "genprm doctor: error: unrecognized arguments" in capsys.readouterr().err
