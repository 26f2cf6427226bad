"""The learning experiment runs from end to end with its smallest amounts, and goes on where it ended."""

from __future__ import annotations

import importlib
import json
import os
import sys

import pytest
import torch

from genprm_trl.data.steps import split_steps
from genprm_trl.miniature.world import seeded
from genprm_trl.training.step_grpo.figures import idle_steps
from tests.helpers.paths import ROOT
from tests.helpers.tiny_verifiers import CHECKPOINTS


@pytest.fixture(scope="module")
def script():
    """The script as a module, which changes this process's environment and finds its helpers beside itself."""
    environment, threads = dict(os.environ), torch.get_num_threads()
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("rl_learning")
    sys.path.remove(str(ROOT / "benchmarks"))
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Kept for all tests of the module: a policy is made once."""
    return tmp_path_factory.mktemp("rl_learning")


@pytest.fixture
def start(script, output, monkeypatch, capsys):
    def run(*words: str) -> str:
        fixed = ["rl_learning.py", "--fast", "--seeds", "1", "--processes", "1", "--output_dir", str(output)]
        monkeypatch.setattr(sys, "argv", [*fixed, *words])
        script.main()
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_runs_are_made_once_and_reported(start, output, tmp_path):
    CHECKPOINTS["qwen_prm"].save(tmp_path / "verifier")
    words = ["--variants", "outcome", "both", "--verifier", str(tmp_path / "verifier")]
    printed = start(*words)
    names = ["outcome-none-0", "both-truth-0", "both-genprm-0"]
    files = [output / "runs" / f"{name}.json" for name in names]
    for file in files:
        result = json.loads(file.read_text(encoding="utf-8"))
        assert [mark["step"] for mark in result["marks"]] == [0, 2]
        assert [log["step"] for log in result["log"]] == [1, 2]
        assert result["seconds"] > 0
        assert result["settings"]["steps"] == 2
    for variant, rewards in (("outcome", "none"), ("both", "truth"), ("both", "genprm")):
        assert f"| {variant} | {rewards} | 1 |" in printed
    assert (output / "learning.md").read_text(encoding="utf-8") in printed
    for rewards in ("truth", "genprm"):
        assert (output / f"learning-{rewards}.png").read_bytes().startswith(b"\x89PNG")

    kept = [file.read_bytes() for file in files]
    files[1].unlink()
    printed = start(*words)
    assert "both-truth-0: 1 of 1" in printed
    assert [file.read_bytes() for file in (files[0], files[2])] == [kept[0], kept[2]]
    again = json.loads(files[1].read_text(encoding="utf-8"))
    assert again["marks"] == json.loads(kept[1])["marks"]

    with pytest.raises(SystemExit, match=r"outcome-none-0\.json .* settings \(problems was 4 and is now 8\)"):
        start(*words, "--problems", "8")


@pytest.mark.slow
def test_a_verifier_with_a_weakness_is_hacked(start, output):
    printed = start("--hacking", "--variants", "process", "min_form")
    assert "| process | fooled | 1 |" in printed
    assert "| min_form | fooled | 1 |" in printed
    assert "HackingStop ends it at step" in printed
    assert (output / "hacking-fooled.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((output / "runs" / "process-fooled-0.json").read_text(encoding="utf-8"))
    # What guards look at is there, though answers are not rewarded.
    for log in result["log"]:
        assert log["reward"] == 0
        for figure in ("process_sum", "process_outcome/gap", "steps/count", "steps/idle", "rewards/process/mean"):
            assert isinstance(log[figure], float), figure


def test_the_guard_is_asked_as_if_it_had_been_there(script, caplog):
    def run(idle_from: int) -> dict:
        return {"log": [{"step": step, "steps/idle": 0.9 * (step >= idle_from)} for step in range(1, 61)]}

    assert script.guard_stops_at(run(61)) is None
    assert not caplog.records
    # Half of the last 20 steps have idle ones.
    assert script.guard_stops_at(run(41)) == 50
    assert "steps/idle went from 0 (steps 1 to 20)" in caplog.text


def test_hacking_is_about_step_rewards(script, capsys):
    with pytest.raises(SystemExit):
        script.read_options(["--hacking", "--variants", "outcome"])
    assert "--variants outcome has not" in capsys.readouterr().err


def test_runs_of_a_seed_come_together(script):
    names = [run.name for run in script.runs_of(script.read_options(["--seeds", "2", "--verifier", "x"]))]
    assert names[0] == "outcome-none-0"
    assert names[1:9] == [
        f"{variant}-{rewards}-0"
        for variant in ("process", "min_form", "discounted", "both")
        for rewards in ("truth", "genprm")
    ]
    assert [name.removesuffix("-1") for name in names[9:]] == [name.removesuffix("-0") for name in names[:9]]
    hacked = script.runs_of(script.read_options(["--seeds", "1", "--hacking"]))
    assert [run.name for run in hacked] == ["process-fooled-0", "min_form-fooled-0", "both-fooled-0"]


def test_one_idle_step_is_inserted(script):
    steps = ["Step 1: It is 2 + 3 = 5.", "Step 2: That is 5 * 2 = 10. The answer is \\boxed{10}."]
    seen = set()
    for seed in range(20):
        padded = script.insert_idle_step(steps, seeded(seed))
        assert split_steps("\n".join(padded), "step").steps == padded
        assert sum(idle_steps(padded)) == 1
        assert [step.split(":")[0] for step in padded] == ["Step 1", "Step 2", "Step 3"]
        seen.add(tuple(idle_steps(padded)))
    assert len(seen) == 2  # after either step
