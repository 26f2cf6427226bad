"""`genprm doctor`: what it finds on a machine as it should be, and on ones with broken packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from genprm_trl.cli.main import main
from genprm_trl.doctor import checks
from genprm_trl.doctor.checks import (
    Finding,
    check_hardware,
    check_hub,
    check_libraries,
    check_sandbox,
    needed,
    try_out,
)
from genprm_trl.sandbox.options import SandboxOptions
from genprm_trl.sandbox.remedies import remedy_for
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


@pytest.mark.parametrize(
    ("version", "wants", "status", "said"),
    [
        ("0.25.0", "transformers>=5", "ok", "fit"),
        ("0.99.0", "transformers>=5", "degraded", "TRL currently supports vLLM versions from"),
        ("0.25.0", "transformers<5", "degraded", "It wants transformers <5; "),
        ("0.25.0", "transformers<5; extra == 'old'", "ok", "fit"),
    ],
)
def test_whether_vllm_fits_the_rest(modules, version, wants, status, said):
    program = "from genprm_trl.doctor.checks import check_vllm; print(*(tuple(found) for found in check_vllm()))"
    install(modules, "vllm", version, f"__version__ = {version!r}")
    information = modules / f"vllm-{version}.dist-info"
    (information / "top_level.txt").write_text("vllm\n")
    with (information / "METADATA").open("a") as file:
        file.write(f"Requires-Dist: {wants}\n")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert f"'versions together', '{status}'" in done.stdout
    assert said in done.stdout


@pytest.mark.skipif("vllm" in metadata.packages_distributions(), reason="vLLM is installed")
def test_without_vllm_nothing_is_said_of_it():
    assert list(checks.check_vllm()) == []


WORKING = dict.fromkeys(checks.TRIALS, "")


def test_what_is_said_about_packages(modules):
    for name, version in (("good", "1.5"), ("newer", "2.0rc1"), ("broken", "1.0"), ("ray", "1.0")):
        install(modules, name, version)
    lines = ["good<2,>=1.2", "newer<2", "broken>=1", "never-there>=3", 'elsewhere>=1; sys_platform == "none"']
    lines += ['ray>=2; extra == "ray"', 'vllm-not-there; extra == "vllm"', 'pytest; extra == "dev"']
    found = list(check_libraries(needed(lines), WORKING | {"broken": "ImportError: libcudart.so"}))
    assert found == [
        Finding("libraries", "trainers", "ok", "work"),
        Finding("libraries", "grading", "ok", "work"),
        Finding("libraries", "good", "ok", "1.5 (supported: >=1.2,<2)"),
        Finding("libraries", "newer", "failed", "2.0rc1 is outside the supported range <2", "pip install 'newer<2'"),
        Finding(
            *("libraries", "broken", "failed", "1.0 is installed and does not work: ImportError: libcudart.so"),
            "pip install 'broken>=1' --force-reinstall",
        ),
        Finding("libraries", "never-there", "failed", "not installed", "pip install 'never-there>=3'"),
        Finding(
            *("extras", "ray", "degraded", "1.0 is outside the supported range >=2"), "pip install 'genprm-trl[ray]'"
        ),
        Finding("extras", "vllm-not-there", "absent", "not installed", "pip install 'genprm-trl[vllm]'"),
    ]


def test_our_own_metadata_can_be_read():
    extras = {package.name: extra for package, extra in needed()}
    assert extras["trl"] == ""
    assert extras["vllm"] == "vllm"
    assert "pytest" not in extras


def test_a_package_that_ends_a_process_fails_alone(modules):
    sources = {
        "aborts": "import os; os.abort()",
        "exits": "raise SystemExit(3)",
        "leaves": "import os; os._exit(4)",
        "raises": "raise ImportError('no such thing\\nand more')",
        "prints": "import os; print('{}'); os.write(1, b'\\xff\\n')",
    }
    for name, source in sources.items():
        (modules / f"{name}.py").write_text(source)
    assert try_out({name: f"import {name}" for name in [*sources, "no_such_module"]}, patience=60) == {
        "aborts": "ended the process (SIGABRT)",
        "exits": "exit code 3",
        "leaves": "exit code 4",
        "raises": "ImportError: no such thing",
        "prints": "",
        "no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
    }
    assert try_out({"json": "import json"}) == {"json": ""}


def test_a_package_that_hangs_is_given_up(modules):
    (modules / "hangs.py").write_text("import time; time.sleep(600)")
    assert "timed out after 3 seconds" in try_out({"hangs": "import hangs"}, patience=3)["hangs"]


@pytest.mark.slow
def test_the_whole_report_sends_nothing(modules, tmp_path, monkeypatch):
    (modules / "sitecustomize.py").write_text(AUDIT)
    monkeypatch.setenv("CONNECTIONS", str(tmp_path / "connections"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    command = [sys.executable, "-m", "genprm_trl", "doctor", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=290)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "hf_secret" not in ran.stdout
    report = json.loads(ran.stdout)
    assert report["works"] is True
    found = {finding["name"]: finding for finding in report["findings"]}
    for name in (
        *("Python", "torch", "transformers", "trl", "trainers", "grading"),
        *("processors", "running code", "no_network", "login"),
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
    [torch] = [line for line in lines if line.startswith("  failed    torch ")]
    assert torch.endswith("does not work: OSError: libtorch_cpu.so: cannot open shared object file")
    fix = lines[lines.index(torch) + 1]
    assert "→ pip install 'torch>=" in fix
    [trl] = [line for line in lines if line.startswith("  failed    trl ")]
    assert trl.endswith("does not work: ended the process (SIGABRT)")
    assert any(line.startswith("  failed    trainers ") for line in lines)
    assert any(line.startswith("  ok        running code ") for line in lines)
    assert lines[-1].startswith("Something necessary does not work: ")


def test_a_check_that_breaks_off_is_a_finding(monkeypatch):
    def no_process(*_, **__):
        raise OSError("no more processes")

    def no_sandbox(_):
        yield Finding("sandbox", "running code", "ok", "")
        raise RuntimeError("gone")

    monkeypatch.setattr("subprocess.run", no_process)
    monkeypatch.setattr(checks, "check_sandbox", no_sandbox)
    found = {finding.name: finding for finding in checks.examine()}
    assert found["trainers"].detail == "could not be tried: no more processes"
    assert found["running code"].status == "ok"
    assert found["sandbox"].status == "failed"
    assert found["sandbox"].detail == "could not be examined: RuntimeError: gone"
    assert found["login"].status in ("ok", "absent")


class Torch:
    """What is asked of torch, on a machine with these cards."""

    def __init__(self, *cards: str, cuda: str | None = "13.0", mps: bool = False, broken: str = ""):
        card = {"total_memory": 80 * 2**30, "major": 9, "minor": 0}
        self.cuda = SimpleNamespace(
            device_count=lambda: len(cards),
            get_device_properties=lambda index: SimpleNamespace(name=cards[index], **card),
        )
        self.version = SimpleNamespace(cuda=cuda)
        self.backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps))
        self.broken = broken

    def ones(self, size: int, device: str) -> object:
        if device == self.broken:
            raise RuntimeError("CUDA error: no kernel image is available\nmore")
        return SimpleNamespace(sum=lambda: SimpleNamespace(item=lambda: float(size)))


def gpus(torch: Torch | None) -> list[Finding]:
    return [finding for finding in check_hardware(torch) if finding.name.startswith("GPU")]


def test_accelerators(monkeypatch, tmp_path):
    [good, bad] = gpus(Torch("NVIDIA H100", "NVIDIA K80", broken="cuda:1"))
    assert good[1:4] == ("GPU 0", "ok", "NVIDIA H100, 80.0 GiB, compute capability 9.0")
    assert (bad.name, bad.status) == ("GPU 1", "degraded")
    assert bad.detail.endswith("CUDA error: no kernel image is available")
    assert gpus(None) == []
    [apple] = gpus(Torch(mps=True))
    assert apple.status == "ok"

    monkeypatch.setattr(checks, "NVIDIA_DRIVER", [tmp_path / "none"])
    assert [finding.status for finding in gpus(Torch())] == ["absent"]
    monkeypatch.setattr(checks, "NVIDIA_DRIVER", [tmp_path])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "built for the CPU alone" in gpus(Torch(cuda=None))[0].detail
    assert "renew the driver" in gpus(Torch())[0].fix
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "unset it" in gpus(Torch())[0].fix


def test_little_shared_memory(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=64 * 2**20))
    [shared] = [finding for finding in check_hardware(None) if finding.name == "shared memory"]
    assert shared.status == "degraded"
    assert "--shm-size" in shared.fix


def hub(monkeypatch, **settings: object) -> dict[str, Finding]:
    for name, value in settings.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    return {finding.name: finding for finding in check_hub(online=False)}


def test_hub_login_and_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    assert hub(monkeypatch)["login"].status == "ok"
    assert "HF_HUB_OFFLINE" not in hub(monkeypatch, HF_HUB_OFFLINE=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert hub(monkeypatch)["login"].fix == "hf auth login"
    assert hub(monkeypatch, HF_HUB_OFFLINE=True)["HF_HUB_OFFLINE"].status == "degraded"
    deep = str(tmp_path / "not" / "yet" / "there")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**40))
    assert hub(monkeypatch, HF_HUB_CACHE=deep)["cache"][2:4] == ("ok", f"1024.0 GiB to write in {deep}")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**30))
    assert "HF_HOME" in hub(monkeypatch)["cache"].fix
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert hub(monkeypatch)["cache"].detail == f"0.0 GiB to write in {deep}"


def test_a_missing_protection_is_as_grave_as_the_sandbox_takes_it(monkeypatch):
    from genprm_trl.sandbox import LocalSandbox, Protection

    reasons = {"no_network": "refused", "files": "refused", "hidden_root": "refused", "cgroup": "none"}
    monkeypatch.setattr(
        LocalSandbox, "protections", lambda self: {name: Protection(name, False, why) for name, why in reasons.items()}
    )

    found = {finding.name: finding for finding in check_sandbox()}
    assert {name: found[name].status for name in reasons} == {
        "no_network": "failed", "files": "failed", "hidden_root": "degraded", "cgroup": "absent"
    }  # fmt: skip
    assert all(found[name].fix == remedy_for(name) for name in reasons)
    assert found["running code"][2:] == (
        "failed", "every command refuses to, without no_network and files", remedy_for("files")
    )  # fmt: skip
    # What the user accepts does not stop anything; what the user requires does.
    options = SandboxOptions(allow_weak_sandbox=True, sandbox_require=["hidden_root"])
    found = {finding.name: finding for finding in check_sandbox(options)}
    assert {name: found[name].status for name in reasons} == {
        "no_network": "degraded", "files": "degraded", "hidden_root": "failed", "cgroup": "absent"
    }  # fmt: skip
    assert found["running code"].status == "failed"
    accepted = check_sandbox(SandboxOptions(allow_weak_sandbox=True))
    assert {finding.name: finding for finding in accepted}["running code"].status == "ok"


def test_a_remedy_is_printed_once(monkeypatch, capsys):
    def examine(online, sandbox):
        for name in ("running code", "files", "hidden_root"):
            yield Finding("sandbox", name, "failed", "refused", "start the container anew")
        yield Finding("sandbox", "cgroup", "absent", "refused", "run as root")

    monkeypatch.setattr(checks, "examine", examine)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("→ start the container anew") == printed.count("→ run as root") == printed.count("→") - 1 == 1
    assert main(["doctor", "--json"]) == 1
    assert capsys.readouterr().out.count("start the container anew") == 3


@pytest.mark.parametrize("words", [["--jsn"], ["more"]])
def test_wrong_words(words, capsys):
    assert main(["doctor", *words]) == 2
    assert "genprm doctor: error: unrecognized arguments" in capsys.readouterr().err


def test_the_sandbox_is_told_of_as_the_commands_would_have_it(monkeypatch, capsys):
    asked = []

    def examine(online, sandbox):
        asked.append(sandbox)
        yield Finding("sandbox", "files", "ok", "")

    monkeypatch.setattr(checks, "examine", examine)
    assert main(["doctor", "--allow_weak_sandbox", "--sandbox_require", "hidden_root", "seccomp"]) == 0
    assert asked == [SandboxOptions(allow_weak_sandbox=True, sandbox_require=["hidden_root", "seccomp"])]
    assert main(["doctor", "--sandbox_require", "nonsense"]) == 2
    assert "unknown protection nonsense; known: separate_process" in capsys.readouterr().err
