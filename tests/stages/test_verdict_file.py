"""A file of verdicts: whose it is, whose labels count, and what another run may do to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genprm_trl.errors import ConfigError, DataError
from genprm_trl.records import Solution, StepJudgement, Verdict
from genprm_trl.stages.verdict_file import VerdictFile, kept_time

SETTINGS = {"n": 1}


def solution(id: str = "a", label: int | None = None) -> Solution:
    return Solution(id, "What is 1 + 1?", ["1 + 1 = 2", "So 2."], label=label)


def verdict(of: Solution) -> Verdict:
    chain = [StepJudgement("", 0.9, "ok") for _ in of.steps]
    return Verdict(of.id, [0.9, 0.9], -1, [chain], label=of.label, solution_digest=of.digest)


def test_an_empty_run_leaves_the_file_of_another_alone(tmp_path):
    path, rows = tmp_path / "out" / "race.jsonl", [solution()]
    first = VerdictFile(path, SETTINGS, rows)
    path.unlink()
    with VerdictFile(path, SETTINGS, rows) as second:
        first.close()
        assert path.exists()
        second.write(verdict(rows[0]))
    first.close()
    assert json.loads(path.read_text())["id"] == "a"
    assert Path(f"{path}.settings.json").exists()


def test_a_run_whose_file_was_taken_away_says_so_at_its_next_verdict(tmp_path):
    path, rows = tmp_path / "v.jsonl", [solution("a"), solution("b")]
    with VerdictFile(path, SETTINGS, rows) as file:
        file.write(verdict(rows[0]))
        path.rename(tmp_path / "moved.jsonl")
        with pytest.raises(DataError, match="was removed or replaced while this command was writing to it"):
            file.write(verdict(rows[1]))
        path.write_text("mine\n")
        with pytest.raises(DataError, match="was removed or replaced"):
            file.write(verdict(rows[1]))
    assert path.read_text() == "mine\n"
    assert (tmp_path / "moved.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize(
    "content", ["a note without an end of line", '{"id": "a"}\n{"half": ', "[1, 2]\n", '{"rewards": 1}\n', "x,y\n1,2"]
)
def test_a_file_of_something_else_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "notes.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"there is no .*settings\.json that says what it was made with"):
        VerdictFile(path, SETTINGS, [solution()])
    assert path.read_text() == content
    assert list(tmp_path.iterdir()) == [path]
    # Not even where the settings of an earlier file are still there.
    Path(f"{path}.settings.json").write_text(json.dumps(SETTINGS))
    with pytest.raises(DataError):
        VerdictFile(path, SETTINGS, [solution()])
    assert path.read_text() == content
    VerdictFile(path, SETTINGS, [solution()], overwrite=True).close()
    assert not path.exists()


def test_a_name_of_a_packed_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"leave out \.gz"):
        VerdictFile(tmp_path / "v.jsonl.gz", SETTINGS, [solution()])


@pytest.mark.parametrize("label", [-1, 1, None])
def test_labels_are_those_of_the_solutions_that_are_given(tmp_path, label):
    path = tmp_path / "v.jsonl"
    with VerdictFile(path, SETTINGS, [solution("a", 0), solution("b", 0)]) as file:
        for each in (solution("a", 0), solution("b", 0)):
            file.write(verdict(each))
    before = path.read_bytes()
    with VerdictFile(path, SETTINGS, [solution("a", label)]) as file:
        assert [each.label for each in file.verdicts()] == [label]
        assert path.read_bytes() == before
        assert file.update_labels() == 1
        assert file.update_labels() == 0
        assert (file.done, file.total) == (1, 1)
    labels = {row["id"]: row["label"] for row in map(json.loads, path.read_text().splitlines())}
    assert labels == {"a": label, "b": 0}  # what is beyond a limit stays as it is


def test_equal_labels_leave_the_file_untouched(tmp_path):
    path = tmp_path / "v.jsonl"
    with VerdictFile(path, SETTINGS, [solution("a", 0)]) as file:
        file.write(verdict(solution("a", 0)))
    inode = path.stat().st_ino
    with VerdictFile(path, SETTINGS, [solution("a", 0)]) as file:
        assert file.update_labels() == 0
    assert path.stat().st_ino == inode


def test_settings_of_something_else_are_not_replaced(tmp_path):
    path, settings = tmp_path / "v.jsonl", tmp_path / "v.jsonl.settings.json"
    for content in ('{"editor.tabSize": 2}', "[1]", "mine"):
        settings.write_text(content)
        with pytest.raises((ConfigError, DataError)):
            VerdictFile(path, SETTINGS, [solution()])
        assert settings.read_text() == content
        assert not path.exists()


def test_what_judging_took_is_kept_over_runs_and_is_not_known_after_a_kill(tmp_path):
    path, rows = tmp_path / "v.jsonl", [solution(id) for id in "abc"]
    assert kept_time(path) == (0, 0.0)
    with VerdictFile(path, SETTINGS, rows) as file:
        file.write(verdict(rows[0]))
        file.add_seconds(1.5)
    with VerdictFile(path, SETTINGS, rows) as file:
        assert kept_time(path) == (1, 1.5)  # opening it again changes nothing
        file.write(verdict(rows[1]))
        file.add_seconds(2.25)
        assert (file.seconds, kept_time(path)) == (3.75, (2, 3.75))
    with VerdictFile(path, SETTINGS, rows[:1]) as file:  # fewer solutions, the same file
        assert kept_time(path) == (2, 3.75)
    with VerdictFile(path, SETTINGS, rows) as file:
        file.write(verdict(rows[2]))  # and then the process is killed
    with VerdictFile(path, SETTINGS, rows) as file:
        assert file.seconds is None
        file.add_seconds(1.0)
        assert file.seconds is None
    with VerdictFile(path, SETTINGS, rows, overwrite=True) as file:
        assert file.seconds == 0.0
        file.write(verdict(rows[0]))
        file.add_seconds(0.5)
    path.unlink()
    with VerdictFile(path, SETTINGS, rows) as file:
        assert file.seconds == 0.0
