"""The stages' machinery: kills, order, settings, failures, full disks, memory."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from genprm_trl.errors import ConfigError, DataError, GenPRMError
from genprm_trl.stages import run as stage
from genprm_trl.stages.file import Outcome, StageFile, StageSummary, stage_directory
from genprm_trl.stages.partial import Partial
from genprm_trl.stages.run import ItemFailed, Worker, in_this_process, run_stage
from tests.helpers.paths import ROOT
from tests.helpers.stage_program import Number, Numbers, work, worker


def program(output: Path, *words: object, prefix: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.helpers.stage_program", str(output), *map(str, words)]
    if prefix:
        command = ["bash", "-c", f'{prefix}; exec "$@"', "bash", *command]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ, check=False)


def run(
    output: Path, n: int = 20, worker: Any = worker, settings: dict[str, Any] | None = None, **options: Any
) -> Any:
    return run_stage(worker, Numbers(n), output, settings or {"n": 4}, progress=False, **options)


def files(output: Path) -> tuple[bytes, bytes]:
    return output.read_bytes(), (stage_directory(output) / "summary.json").read_bytes()


def test_rows_come_in_the_order_of_the_input_whatever_finished_first(tmp_path):
    output = tmp_path / "deep" / "rows.jsonl"
    summary = run(output)
    ids = [json.loads(line)["id"] for line in output.read_text().splitlines()]
    assert ids == [f"n{value}-{copy}" for value in range(20) for copy in range(value % 4)]
    assert summary == StageSummary.load(output)
    assert summary.to_dict() == {
        "items": 20,
        "rows": 30,
        "dropped": {"multiple of four": 5},
        "counts": {"halves": 95.0, "sum": 190},
        "bad_rows": 0,
    }


def test_killed_at_twenty_random_points_it_ends_with_the_same_output(tmp_path):
    reference, output = tmp_path / "reference.jsonl", tmp_path / "killed.jsonl"
    assert program(reference, 60).returncode == 0
    rng = random.Random(6)
    left, kills = 60, 0
    while kills < 20:
        point, torn = rng.randint(1, 3), rng.random() < 0.4
        if point >= left:
            break
        assert program(output, 60, point, "torn" if torn else "whole").returncode == -9
        assert not output.exists()
        left -= point - torn
        kills += 1
    assert kills == 20
    # One more between the last item and the output.
    assert program(output, 60, left, "whole").returncode == -9
    assert not output.exists()
    assert program(output, 60).returncode == 0
    assert files(output) == files(reference)


def test_the_output_is_written_anew_from_the_journal_and_grows_with_the_input(tmp_path):
    output, reference = tmp_path / "rows.jsonl", tmp_path / "reference.jsonl"
    run(output, 8)
    before = files(output)

    def open_nothing() -> Any:
        raise AssertionError("there is nothing to do")

    none = Worker(open_nothing, work)
    output.unlink()
    run(output, 8, none)
    assert files(output) == before
    run(output, 20)
    run(reference, 20)
    assert files(output) == files(reference)
    # A smaller input gives what it alone would have given; the rest stays paid for.
    run(output, 8, none)
    assert files(output) == before
    run(output, 20, none)
    assert files(output) == files(reference)


def test_settings_and_contents_are_not_mixed(tmp_path):
    output = tmp_path / "rows.jsonl"
    run(output)
    before = files(output)
    with pytest.raises(ConfigError, match="n was 4 and is now 5"):
        run(output, settings={"n": 5})

    class Changed(Number):
        digest = "changed"  # type: ignore[assignment]

    with pytest.raises(DataError, match="holds rows of 'n0' about another text"):
        run_stage(worker, [Changed(0)], output, {"n": 4}, progress=False)
    assert files(output) == before
    run(output, settings={"n": 5}, overwrite=True)
    with pytest.raises(DataError, match="'n1' is the id of row"):
        run_stage(worker, [Number(1), Number(1)], tmp_path / "other.jsonl", {}, progress=False)
    assert not list(tmp_path.glob("other*"))


def test_parts_of_items_are_not_mixed_either(tmp_path):
    output = tmp_path / "rows.jsonl"
    known = []

    async def half(opened: None, number: Number, partial: Partial) -> Outcome:
        known.append([dict(record) for record in partial.known])
        partial.keep({"half": number.value})
        raise ItemFailed("killed in the middle")

    with pytest.raises(GenPRMError, match="0 finished"):
        run(output, 1, Worker(contextlib.nullcontext, half))
    with pytest.raises(ConfigError, match="n was 4 and is now 5"):
        run(output, 1, Worker(contextlib.nullcontext, half), {"n": 5})
    with pytest.raises(GenPRMError, match="0 finished"):
        run(output, 1, Worker(contextlib.nullcontext, half))
    assert known == [[], [{"half": 0}]]
    run(output, 1, settings={"n": 5}, overwrite=True)
    assert not stage_directory(output).joinpath("partial.jsonl").exists()


def test_files_of_others_are_left_alone(tmp_path):
    output = tmp_path / "rows.jsonl"
    output.write_text("mine\n")
    with pytest.raises(ConfigError, match="to resume from; choose another"):
        run(output)
    assert output.read_text() == "mine\n"
    run(output, overwrite=True)
    with pytest.raises(ConfigError, match="is a directory"):
        run(tmp_path)
    with StageFile(tmp_path / "held.jsonl", {}, Numbers(1)), pytest.raises(DataError, match="another process"):
        run(tmp_path / "held.jsonl", overwrite=True)


def failing(which: Iterable[int], error: Exception) -> Any:
    async def failing_work(opened: None, number: Number, partial: Partial) -> Outcome:
        if number.value in which:
            raise error
        return await work(opened, number, partial)

    return Worker(contextlib.nullcontext, failing_work)


def test_items_that_fail_are_taken_up_again(tmp_path, caplog):
    output, reference = tmp_path / "rows.jsonl", tmp_path / "reference.jsonl"
    run(reference)
    with pytest.raises(
        GenPRMError, match=r"2 of 20 items failed, the first one 'n3': away.*18 finished ones are kept"
    ):
        run(output, worker=failing([3, 4], ItemFailed("away")), execute=in_this_process(1))
    assert not output.exists()
    assert run(output, worker=failing(range(3), ItemFailed("nothing else is asked for"))).items == 20
    assert files(output) == files(reference)


def test_items_that_fail_are_dropped_on_demand(tmp_path):
    summary = run(tmp_path / "rows.jsonl", worker=failing([3], ItemFailed("poison")), drop_failed=True)
    assert (summary.items, summary.rows, summary.dropped["failed"]) == (20, 27, 1)
    # Kept so with the same words, and taken up again without them.
    before = files(tmp_path / "rows.jsonl")
    run(tmp_path / "rows.jsonl", worker=failing(range(20), ItemFailed("not asked for")), drop_failed=True)
    assert files(tmp_path / "rows.jsonl") == before
    with pytest.raises(GenPRMError, match=r"1 of 20 items failed, the first one 'n3': still"):
        run(tmp_path / "rows.jsonl", worker=failing(range(20), ItemFailed("still")))
    assert run(tmp_path / "rows.jsonl").dropped["failed"] == 0
    run(tmp_path / "reference.jsonl")
    assert files(tmp_path / "rows.jsonl") == files(tmp_path / "reference.jsonl")


@pytest.mark.parametrize("drop_failed", [False, True])
def test_a_dead_generator_ends_the_run_at_once(tmp_path, drop_failed):
    output = tmp_path / "rows.jsonl"
    work = failing(range(5, 10**6), ItemFailed("connection refused"))
    with pytest.raises(GenPRMError, match=r"10 items failed one after the other.*connection refused.*5 finished"):
        run(output, 10**3, work, execute=in_this_process(4), drop_failed=drop_failed)
    assert stage.MAX_FAILURES_IN_A_ROW == 10
    assert (stage_directory(output) / "journal.jsonl").read_bytes().count(b"\n") == 5


def test_an_unexpected_error_is_raised_and_what_was_finished_is_kept(tmp_path):
    output = tmp_path / "rows.jsonl"
    with pytest.raises(ZeroDivisionError):
        run(output, worker=failing([10], ZeroDivisionError()), execute=in_this_process(1))
    assert (stage_directory(output) / "journal.jsonl").read_bytes().count(b"\n") == 10
    assert run(output).items == 20


def test_rows_that_are_no_json_are_named(tmp_path):
    async def unwritable(opened: None, number: Number, partial: Partial) -> Outcome:
        return Outcome(rows=[{"mc": float("nan")}])

    with pytest.raises(DataError, match=r"journal.jsonl, field 'rows\[0\].mc'.*nan"):
        run(tmp_path / "rows.jsonl", worker=Worker(contextlib.nullcontext, unwritable))


@pytest.mark.parametrize("kilobytes", [4, 14])  # full in the journal; full in the output
def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path, kilobytes):
    output, reference = tmp_path / "rows.jsonl", tmp_path / "reference.jsonl"
    assert program(reference, 60).returncode == 0
    journal = stage_directory(reference) / "journal.jsonl"
    assert 4 * 1024 < reference.stat().st_size < journal.stat().st_size
    limit = kilobytes if kilobytes == 4 else -(-reference.stat().st_size // 1024) - 1
    if kilobytes != 4:  # the journal is complete, the output does not fit any more
        assert program(output, 60).returncode == 0
        output.unlink()
    done = program(output, 60, prefix=f"ulimit -f {limit}")
    assert done.returncode == 1
    assert re.search("StorageError: .*cannot be written: File too large", done.stderr)
    assert not output.exists()
    assert program(output, 60).returncode == 0
    assert files(output) == files(reference)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_items(tmp_path):
    def peak(n: int) -> int:
        done = program(tmp_path / f"{n}.jsonl", n)
        assert done.returncode == 0, done.stderr
        return int(re.search(r"rss (\d+)", done.stdout)[1])  # KiB

    growth = peak(100_000) - peak(1_000)
    journal = (stage_directory(tmp_path / "100000.jsonl") / "journal.jsonl").stat().st_size // 1024
    assert growth < 18_000  # hashes and places: some 150 bytes an item
    assert journal > 6 * growth  # so rows cannot have been held
