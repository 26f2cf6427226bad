"""Judging real text with a real model: verify in all modes, resuming, select, and the service."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from genprm_trl.client import VerifierClient
from genprm_trl.protocol.genprm import MODES
from genprm_trl.records import Verdict
from tests.helpers.paths import ROOT
from tests.real.conftest import SHORT, SOLUTIONS, check_verdict, genprm, judged, write

_KILLED = (
    "import sys; from tests.helpers.kills import die_at; from genprm_trl.cli.main import main;"
    "die_at(2, torn=True); sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_judges_whatever_is_written(verifier, solutions, tmp_path, mode):
    output = tmp_path / "verdicts.jsonl"
    code = genprm("verify", solutions, model=verifier, mode=mode, output=output, limit=2, **SHORT)
    verdicts = judged(code, output)
    assert verdicts.keys() == {"s20", "s21"}
    for solution in SOLUTIONS[:2]:
        check_verdict(verdicts[solution.id], solution, runs_code=MODES[mode].execute)


def test_a_model_that_never_saw_the_format_gives_statuses_too(base, solutions, tmp_path):
    output = tmp_path / "verdicts.jsonl"
    [verdict] = judged(genprm("verify", solutions, model=base, limit=1, output=output, **SHORT), output).values()
    check_verdict(verdict, SOLUTIONS[0])


def test_a_killed_run_ends_with_the_verdicts_of_a_whole_one(verifier, solutions, tmp_path, nothing_generated):
    words = ["-q", "verify", solutions, "--model", verifier, "--max_items", "1", "--dtype", "float32"]
    words += ["--temperature", "0", "--mode", "direct"]
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    killed = [sys.executable, "-c", _KILLED, *words, "--output", str(resumed)]
    done = subprocess.run(killed, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    kept = resumed.read_bytes()
    assert kept.count(b"\n") == 1
    assert not kept.endswith(b"\n")
    found = judged(genprm(*words[1:], "--output", resumed), resumed)
    assert resumed.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    expected = judged(genprm(*words[1:], "--output", whole), whole)
    assert found.keys() == expected.keys() == {solution.id for solution in SOLUTIONS}
    for name, verdict in expected.items():
        assert found[name].rewards == pytest.approx(verdict.rewards, abs=1e-3)
        assert rationales_of(found[name]) == rationales_of(verdict)
    before = whole.read_bytes()
    nothing_generated()
    judged(genprm(*words[1:], "--output", whole), whole)
    assert whole.read_bytes() == before


def rationales_of(verdict: Verdict) -> list[list[str]]:
    return [[judgement.rationale for judgement in chain] for chain in verdict.chains]


@pytest.mark.parametrize("rule", ["best", "weighted", "pessimistic"])
def test_one_of_several_answers_is_chosen(pools, rule, nothing_generated):
    source, output, words = pools
    nothing_generated()  # the fixture has judged them
    judged(genprm("select", source, rule=rule, output=output, **words), words["verdicts"])
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["a", "b"]
    for row in rows:
        assert len(row["candidates"]) == 2
        assert all(0 <= candidate["score"] <= 1 for candidate in row["candidates"])
    numbers = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    assert numbers["problems"] == 2
    assert "| oracle (pass@N) |" in output.with_suffix(".md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pools(verifier, tmp_path_factory) -> tuple[str, Path, dict[str, object]]:
    """Candidates of two problems, judged once for all rules."""
    path = tmp_path_factory.mktemp("select")
    candidates = ["2 + 3 = 5\n#### 5", "2 + 3 = 6\n#### 6"]
    problems = {"a": "What is 2 + 3?", "b": "What is 3 + 2?"}
    rows = [{"id": i, "problem": text, "answer": "5", "candidates": candidates} for i, text in problems.items()]
    source, output = write(path / "pools.jsonl", rows), path / "chosen.jsonl"
    words = {"model": verifier, "verdicts": path / "verdicts.jsonl", "mode": "direct", "n": 2, **SHORT}
    verdicts = judged(genprm("select", source, output=output, **words), words["verdicts"])
    assert verdicts.keys() == {"a-0", "a-1", "b-0", "b-1"}
    return str(source), output, words


@pytest.fixture
def service(verifier) -> Iterator[str]:
    """The address of `genprm serve`, in a process of its own."""
    command = [sys.executable, "-m", "genprm_trl", "serve", "--model", verifier, "--port", "0"]
    command += ["--dtype", "float32", "--max_step_tokens", "48", "--temperature", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stderr is not None
    try:
        found = next(found for line in process.stderr if (found := re.search(r"listening at (http://\S+)", line)))
        yield found[1]
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=120)
        assert process.returncode == 0, log
    finally:
        process.kill()
        process.wait()


def test_the_service_gives_the_verdicts_of_verify(service, verifier, solutions, tmp_path):
    client = VerifierClient(service)
    asyncio.run(client.wait_until_ready(240))
    told = {verdict.id: verdict for verdict in client.verify_all(SOLUTIONS[:2], progress=False)}
    output = tmp_path / "verdicts.jsonl"
    code = genprm("verify", solutions, model=verifier, output=output, limit=2, temperature=0, **SHORT)
    for name, verdict in judged(code, output).items():
        solution = next(each for each in SOLUTIONS if each.id == name)
        check_verdict(told[name], solution, runs_code=True)
        assert told[name].rewards == pytest.approx(verdict.rewards, abs=1e-3)
        assert [j.status for chain in told[name].chains for j in chain] == [
            j.status for chain in verdict.chains for j in chain
        ]
