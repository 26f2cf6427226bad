"""Every command that runs code, on a machine without a wall: it ends before a model is loaded, or takes the risk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.data.solutions import iter_verdicts
from genprm_trl.rows.jsonl import write_jsonl
from tests.helpers.hosts import ELSEWHERE
from tests.helpers.judging_generator import BACKEND
from tests.helpers.paths import ROOT
from tests.helpers.recipes import write_config
from tests.helpers.sft import records
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, to be told that it is another machine"),
    pytest.mark.slow,
]

UNLOADABLE = "tests.helpers.judging_generator:Unloadable"
SOLUTIONS = [{"id": "a", "problem": "1+1?", "steps": ["1+1=2"], "label": -1}]
# Runs command lines in a process that takes itself for another machine; prints the code and what was said of each.
PROGRAM = (
    ELSEWHERE
    + """
import contextlib, io, json, sys
from genprm_trl.cli.main import main
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, files, and a configuration of a reward whose verifier must not be loaded."""
    path = tmp_path_factory.mktemp("weak")
    tiny_model().save_pretrained(path / "model")
    tiny_tokenizer().save_pretrained(path / "model")
    ModelSettings().save(path / "model")
    write_jsonl(path / "solutions.jsonl", SOLUTIONS)
    write_jsonl(path / "problems.jsonl", [{"problem": "1+1?", "answer": "2"}])
    write_jsonl(path / "pool.jsonl", [{"problem": "1+1?", "answer": "2", "candidates": ["#### 2", "#### 3"]}])
    write_jsonl(path / "rows.jsonl", records(2))
    shutil.copytree(path / "model", path / "hollow")
    (path / "hollow" / "model.safetensors").unlink()  # it would be missed
    (path / "reward.yaml").write_text(f"verifier: {path / 'model'}\nbackend: {UNLOADABLE}\n")
    return path


REFUSED = ("verify", "select", "search", "refine", "serve", "rationalize", "recipe", "grpo", "sft", "quickstart")


@pytest.fixture(scope="module")
def ran(work: Path) -> dict[str, tuple[int, str, str]]:
    """Exit code, stdout and stderr of each command, by a name."""
    model, out = ["--model", str(work / "model"), "--backend", UNLOADABLE], ["--output", str(work / "out.jsonl")]
    policy = ["--policy", str(work / "model"), "--policy_backend", UNLOADABLE]
    training = [
        "--model",
        str(work / "model"),
        "--output_dir",
        str(work / "trained"),
        "--use_cpu",
        "--report_to",
        "none",
    ]
    verified = ["--eval_strategy", "epoch", "--eval_data", str(work / "rows.jsonl")]
    verified += ["--verify_data", str(work / "solutions.jsonl")]
    recipe = write_config(work, rationalize={"model": "x", "backend": UNLOADABLE})
    verify = ["verify", str(work / "solutions.jsonl"), "--model", str(work / "model"), "--backend", BACKEND]
    commands = {
        "verify": ["verify", str(work / "solutions.jsonl"), *model, *out],
        "select": ["select", str(work / "pool.jsonl"), *model, *out],
        "search": ["search", str(work / "problems.jsonl"), *model, *policy, *out],
        "refine": ["refine", str(work / "problems.jsonl"), *model, *policy, *out],
        "serve": ["serve", *model, "--port", "0"],
        "rationalize": ["rationalize", str(work / "solutions.jsonl"), *model, *out],
        "recipe": ["recipe", "--config", recipe],
        "grpo": ["grpo", str(work / "problems.jsonl"), "--reward_config", str(work / "reward.yaml"), *training],
        "sft": ["sft", str(work / "rows.jsonl"), *training, *verified, "--model", str(work / "hollow")],
        "quickstart": ["quickstart", "--fast", "--output_dir", str(work / "quickstart")],
        "taken": [*verify, "--output", str(work / "taken.jsonl"), "--allow_weak_sandbox"],
        "partly": [
            *verify, "--output", str(work / "partly.jsonl"), "--allow_weak_sandbox", "--sandbox_require", "files",
        ],
        "unneeded": [*verify, "--output", str(work / "unneeded.jsonl"), "--mode", "analysis"],
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([*commands.values()])],
        capture_output=True, text=True, cwd=ROOT, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(commands, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_it_ends_with_code_2_before_a_model_is_loaded(ran: dict[str, tuple[int, str, str]], name: str):
    code, _, err = ran[name]
    assert code == 2, err
    assert "a model was loaded" not in err
    error = err[err.index(f"genprm {name}: error: ") :]
    assert "The sandbox cannot give the protections required of it:" in error
    assert "files: needs Linux on x86_64 or aarch64" in error
    assert "--allow_weak_sandbox" in error
    assert "Traceback" not in err


def test_the_quickstart_has_trained_nothing_by_then(ran: dict[str, tuple[int, str, str]], work: Path):
    assert not list(work.glob("quickstart/*/model.safetensors"))


def test_the_risk_is_taken_by_name_and_said(ran: dict[str, tuple[int, str, str]], work: Path):
    code, _, err = ran["taken"]
    assert code == 0
    assert "The sandbox is weak, and that was accepted: a program that a model writes can use your network" in err
    [verdict] = iter_verdicts(str(work / "taken.jsonl"))
    assert [(r.output, r.status) for r in verdict.chains[0][0].code_rounds] == [("42", "ok")]


def test_what_is_required_by_name_is_not_accepted(ran: dict[str, tuple[int, str, str]]):
    code, _, err = ran["partly"]
    assert code == 2
    assert "files: needs Linux" in err
    assert "no_network" not in err


def test_a_mode_without_code_needs_no_sandbox(ran: dict[str, tuple[int, str, str]]):
    assert ran["unneeded"][0] == 0


def test_doctor_names_the_way_out_of_this_machine():
    program = f"""{ELSEWHERE}
import json, sys
from genprm_trl.doctor.checks import check_sandbox
from genprm_trl.sandbox import SandboxOptions
for weak in (False, True):
    print(json.dumps([finding._asdict() for finding in check_sandbox(SandboxOptions(allow_weak_sandbox=weak))]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120)
    graver = {"failed": "failed", "degraded": "ok"}
    for line, (status, runs) in zip(done.stdout.splitlines(), graver.items(), strict=True):
        found = {finding["name"]: finding for finding in json.loads(line)}
        assert found["running code"]["status"] == runs
        for name in ("files", "no_network"):
            assert found[name]["status"] == status
            assert "SandboxFusion server" in found[name]["fix"]
            assert "--allow_weak_sandbox" in found[name]["fix"]
