"""`genprm verify` when something goes wrong in the middle: whatever was finished is kept, and a later run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from genprm_trl.cli.main import main
from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.data.solutions import iter_verdicts
from genprm_trl.records import Solution, StepJudgement, Verdict
from genprm_trl.rows.jsonl import JsonlWriter
from genprm_trl.stages.verdict_file import VerdictFile
from tests.helpers.judging_model import judging_model
from tests.helpers.solution_rows import row, write_rows
from tests.helpers.tiny_models import tiny_tokenizer

COUNT = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A directory with a tiny model, solutions, and the verdicts of a run without faults."""
    path = tmp_path_factory.mktemp("faults")
    judging_model().save_pretrained(path / "genprm")
    tiny_tokenizer().save_pretrained(path / "genprm")
    ModelSettings(modes=("full",)).save(path / "genprm")
    write_rows(path / "many.jsonl", [row(number) for number in range(COUNT)])
    assert main(words(path, path / "clean.jsonl")) == 0
    return path


def words(made: Path, output: Path) -> list[str]:
    words = ["verify", str(made / "many.jsonl"), "--model", str(made / "genprm"), "--output", str(output)]
    words += ["--backend", "tests.helpers.faulty_generator:FaultyGenerator", "--max_step_tokens", "24", "--n", "2"]
    return [*words, "--stop", "first_error", "--max_chains", "4"]


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "v.jsonl"


@pytest.fixture
def command(made, output) -> list[str]:
    return words(made, output)


def assert_complete(path: Path, made: Path) -> None:
    """The file holds every verdict once, and each is what the run without faults found."""
    verdicts = {verdict.id: verdict for verdict in iter_verdicts(path)}
    assert sorted(verdicts) == sorted(f"s{number}" for number in range(COUNT))
    assert path.read_bytes().count(b"\n") == COUNT
    for verdict in iter_verdicts(made / "clean.jsonl"):
        # Seconds of code runs differ from run to run, and the last digits of a reward with the batch.
        assert verdict.rewards == pytest.approx(verdicts[verdict.id].rewards, abs=1e-5)
        assert [[j.rationale for j in chain] for chain in verdict.chains] == [
            [j.rationale for j in chain] for chain in verdicts[verdict.id].chains
        ]


@pytest.fixture
def heeding_interrupts():
    """What a shell starts in the background ignores Ctrl-C, and so do its children: not those of this test."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("heeding_interrupts")
def test_ctrl_c_keeps_what_is_finished_and_ends_every_process(made, command, output, request):
    # The run gets no further than this, however long the signal takes on a busy machine.
    faults = {"GENPRM_TEST_FAULTS": "hang:60", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "genprm_trl", *command],
        env={**os.environ, **faults},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    request.addfinalizer(process.kill)
    deadline = time.monotonic() + 600
    while not output.exists() or output.read_bytes().count(b"\n") < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    # As a terminal does it: the signal goes to the whole group, sandbox processes included.
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 130
    assert "interrupted; finished verdicts are in" in errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    kept = output.read_bytes()
    assert kept.endswith(b"\n")
    assert 3 <= kept.count(b"\n") < COUNT
    assert main(command) == 0
    assert output.read_bytes().startswith(kept)
    assert_complete(output, made)


@pytest.mark.slow
def test_an_engine_that_dies_ends_the_run_and_a_later_one_goes_on(made, command, output, capsys, monkeypatch):
    monkeypatch.setenv("GENPRM_TEST_FAULTS", "die:60")
    assert main(command) == 2
    errors = capsys.readouterr().err
    assert "error: the engine died" in errors
    assert "Traceback" not in errors
    kept = output.read_bytes()
    assert 0 < kept.count(b"\n") < COUNT
    assert not any(verdict.has_failed for verdict in iter_verdicts(output))
    monkeypatch.delenv("GENPRM_TEST_FAULTS")
    assert main(command) == 0
    assert output.read_bytes().startswith(kept)
    assert_complete(output, made)


def test_a_server_that_comes_back_leaves_statuses_that_can_be_judged_again(made, command, output, capsys, monkeypatch):
    monkeypatch.setenv("GENPRM_TEST_FAULTS", "fail:30-60")
    assert main(command) == 0
    errors = capsys.readouterr().err
    assert "the server is away" in errors
    assert "--retry_errors" in errors
    failed = {verdict.id for verdict in iter_verdicts(output) if verdict.has_failed}
    assert 0 < len(failed) < COUNT
    monkeypatch.delenv("GENPRM_TEST_FAULTS")
    before = output.read_bytes()
    assert main(command) == 0  # without the option, what is judged stays judged
    assert output.read_bytes() == before

    capsys.readouterr()
    assert main([*command, "--retry_errors"]) == 0
    assert f"resuming with the other {len(failed)}" in capsys.readouterr().err
    assert_complete(output, made)


def verdict(number: int, status: str = "ok") -> Verdict:
    return Verdict(f"s{number}", [0.5], -1, [[StepJudgement("", 0.5, status)]])


def test_failed_verdicts_are_taken_out_under_the_lock(tmp_path):
    path = tmp_path / "v.jsonl"
    solutions = [Solution(f"s{number}", "p", ["x"]) for number in range(4)]
    with VerdictFile(path, {}, solutions) as file:
        for number, status in enumerate(("ok", "error", "truncated")):
            file.write(verdict(number, status))
    with VerdictFile(path, {}, solutions) as file:
        assert [solution.id for solution in file.remaining()] == ["s3"]
    with VerdictFile(path, {}, solutions, retry_errors=True) as file:
        assert [solution.id for solution in file.remaining()] == ["s1", "s3"]
        with pytest.raises(Exception, match="another process is writing"):
            JsonlWriter(path)
        file.write(verdict(1))
    assert [verdict.id for verdict in iter_verdicts(path)] == ["s0", "s2", "s1"]
    assert list(tmp_path.glob(".*.tmp")) == []
