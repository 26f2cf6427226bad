"""Files of verdicts compared: which solutions, the figures by hand, and the page that shows where verifiers differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genprm_trl.cli.main import main
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.verdict_report import write_comparison
from genprm_trl.verdict_report.reading import match_files
from tests.helpers.verdict_examples import read_page, solution_of, verdict

LABELS = {"a": 1, "b": -1, "c": 0, "d": -1}
FIRST = {"a": [0.9, 0.2], "b": [0.9, 0.8], "c": [0.6], "d": [0.3, 0.9]}
SECOND = {"a": [0.8, 0.6], "b": [0.7, 0.9], "c": [0.1], "d": [0.9, 0.9]}


def verdicts(rewards, **options):
    """Verdicts with the digests of their solutions."""
    found = [verdict(id, [each], label=LABELS[id], **options) for id, each in rewards.items()]
    for one in found:
        solution_of(one)
    return found


def write(directory: Path, **files) -> list[Path]:
    for name, found in files.items():
        write_jsonl(directory / f"{name}.jsonl", found)
    return [directory / f"{name}.jsonl" for name in files]


def compared(directory: Path, **files):
    return write_comparison(write(directory, **files), directory / "page.html")


def test_figures_by_hand(tmp_path):
    report = compared(tmp_path, one=verdicts(FIRST), two=verdicts(SECOND))
    numbers = report.numbers
    assert [each["name"] for each in numbers["verifiers"]] == ["one", "two", "mean of all"]
    # The mean of both is right in all four: [.85, .4], [.8, .85], [.35], [.6, .9].
    scores = [each["scores"] for each in numbers["verifiers"]]
    assert [round(each["f1"]["value"], 1) for each in scores] == [50, 66.7, 100]
    assert [round(each["step_auroc"]["value"], 1) for each in scores] == [90, 100, 100]
    assert [each["tokens"] for each in numbers["verifiers"]] == [280, 280, 560]
    gap = numbers["differences"][0]
    assert (gap["first"], gap["second"], gap["only_first_right"], gap["only_second_right"]) == ("one", "two", 1, 2)
    assert gap["scores"]["f1"]["value"] == pytest.approx(-50 / 3)
    assert numbers["agreement"] == [[100, 25, 50], [25, 100, 75], [50, 75, 100]]
    json.dumps(numbers, allow_nan=False)
    [verifiers, differences, agreement] = report.tables
    assert verifiers.rows[0][:2] == ["one", "50.0"]
    assert verifiers.rows[1][-2:] == ["25.0", "70"]
    assert differences.rows[0][:2] == ["one minus two", "-16.7"]
    assert agreement.rows[0] == ["one", "100.0", "25.0", "50.0"]
    assert "Too few solutions to say which is better: 4, and it takes 20." in report.notes


def refused(directory: Path, common: bool = False, **files) -> str:
    with pytest.raises(DataError) as caught:
        match_files(write(directory, **files), common=common)
    return str(caught.value)


def test_files_that_differ_in_their_solutions(tmp_path):
    whole, part = verdicts(FIRST), verdicts(SECOND)[1:]
    said = refused(tmp_path, one=whole, two=part)
    assert said.startswith(f"{tmp_path / 'two.jsonl'}: holds no verdict of 1 of the 4 solutions")
    assert "such as 'a'" in said
    assert "--common" in said
    part[0].solution_digest = "other"
    assert "another text under the id 'b' than another file does (1 such ids)" in refused(
        tmp_path, one=whole, two=part
    )
    report = write_comparison(write(tmp_path, one=whole, two=part), tmp_path / "page.html", common=True)
    assert report.numbers["solutions"] == 2
    assert report.numbers["left_out"] == {"one": 2, "two": 1}
    assert report.notes[0] == (
        "Left out, since not all files judge these solutions: 2 of one, 1 of two. 1 ids stand for different texts."
    )
    assert "no solution that all the files judge" in refused(tmp_path, common=True, one=whole[:1], two=part)
    part[0].solution_digest = ""  # a file of an earlier version: it fits any text
    assert match_files(write(tmp_path, one=whole[1:], two=part)).ids == ["b", "c", "d"]


def test_files_that_differ_in_their_labels(tmp_path):
    first, second = verdicts(FIRST), verdicts(SECOND)
    second[0].label = None
    said = refused(tmp_path, one=first, two=second)
    assert "gives 'a' no label, and" in said
    assert "gives it the label 1 (1 solutions have other labels); name the solutions with --solutions" in said
    solutions = [solution_of(one) for one in verdicts(FIRST)]
    files = write(tmp_path, one=first, two=second)
    matched = match_files(files, solutions=solutions)
    assert matched.files[1].verdicts["a"].label == 1
    solutions[0].steps[0] = "Another."
    with pytest.raises(DataError, match="a verdict of 'a' about another text than the solution"):
        match_files(files, solutions=solutions)
    assert match_files(files[:1] + write(tmp_path, three=first), solutions=solutions[1:]).without_solution == 1


def test_files_that_make_no_comparison(tmp_path):
    [one] = write(tmp_path, one=verdicts(FIRST))
    for paths, said in (([one], "at least two"), ([one, one], "named twice")):
        with pytest.raises(ConfigError, match=said):
            match_files(paths)
    with pytest.raises(ConfigError, match="is the file of verdicts itself"):
        write_comparison(write(tmp_path, one=verdicts(FIRST), two=verdicts(FIRST)), one)
    assert "holds no verdicts" in refused(tmp_path, one=verdicts(FIRST), two=[])
    assert "two verdicts of 'a'" in refused(tmp_path, one=verdicts(FIRST), two=verdicts(FIRST)[:1] * 2)


def test_a_failure_of_one_takes_the_solution_out_of_all_figures(tmp_path):
    first, second = verdicts(FIRST), verdicts(SECOND)
    second[3].chains[0][0].status = "error"
    report = compared(tmp_path, one=first, two=second)
    assert (report.numbers["solutions"], report.numbers["failed"], report.numbers["labelled"]) == (4, 1, 3)
    # Without `d`, whose error is flagged: a and b are right, c is not.
    assert report.numbers["verifiers"][0]["scores"]["correct_acc"]["value"] == 100
    assert "1 of 4 solutions are in no figure, since a verifier failed on them: two on 1." in report.notes
    assert len(read_page(tmp_path / "page.html").rows) == 4
    for one in second:
        one.chains[0][0].status = "error"
    assert compared(tmp_path, one=first, two=second).tables == []


def test_what_one_could_not_judge_is_said_and_is_no_half_in_the_mean(tmp_path):
    first, second = verdicts(FIRST), verdicts(SECOND)
    first[3].chains[0][0].status = "no_verdict"  # whose 0.3 is then no reward
    report = compared(tmp_path, one=first, two=second)
    assert "one has no verdict on 1 solutions. They count as wrong." in report.notes
    assert [each["without_verdict"] for each in report.numbers["verifiers"]] == [1, 0, 0]
    assert report.numbers["verifiers"][2]["scores"]["f1"]["value"] == 100


def test_the_mean_is_not_made_up_where_judging_stopped(tmp_path):
    """`d` ends at 0.3 in one file; the mean goes on, and nobody knows what the first verifier would say."""
    first, second = verdicts({**FIRST, "d": [0.3]}), verdicts(SECOND)
    first[3].solution_digest = second[3].solution_digest
    report = compared(tmp_path, one=first, two=second)
    assert [each["name"] for each in report.numbers["verifiers"]] == ["one", "two"]
    assert report.notes[-1].startswith("mean of all: not known. In 1 solutions")
    assert "1 such steps were not judged by all. AUROC and calibration error leave them out." in report.notes


def test_seconds_are_those_kept_beside_the_files(tmp_path):
    files = {"one": verdicts(FIRST), "two": verdicts(SECOND)}
    for name, timed in (("one", 4), ("two", 3)):  # a run on the second was killed
        settings = {"took": {"verdicts": timed, "seconds": 10.0}}
        (tmp_path / f"{name}.jsonl.settings.json").write_text(json.dumps(settings))
    report = compared(tmp_path, **files)
    assert [each["seconds_per_solution"] for each in report.numbers["verifiers"]] == [2.5, None, None]
    assert [row[-1] for row in report.tables[0].rows] == ["2.5", "", ""]


def test_other_thresholds_are_said(tmp_path):
    report = compared(tmp_path, one=verdicts(FIRST, threshold=0.25), two=verdicts(SECOND))
    assert report.notes[0] == (
        "Thresholds differ: one 0.25; two 0.5. Each prediction is by its own, that of mean of all by 0.5."
    )
    assert report.numbers["verifiers"][0]["thresholds"] == [0.25]
    both = compared(tmp_path, one=verdicts(FIRST, threshold=0.9), two=verdicts(SECOND, threshold=0.9))
    assert both.numbers["verifiers"][2]["thresholds"] == [0.9]
    assert not both.notes[0].startswith("Thresholds")


def test_without_labels(tmp_path):
    files = {"one": verdicts(FIRST), "two": verdicts(SECOND)}
    for one in (*files["one"], *files["two"]):
        one.label = None
    report = compared(tmp_path, **files)
    assert [table.title for table in report.tables][1:] == ["Solutions with the same prediction, per cent"]
    assert report.notes == ["No verdict carries a label, so there is nothing to hold them against."]
    assert report.numbers["verifiers"][0]["scores"] is None


def test_the_page_has_all_verdicts_side_by_side(tmp_path):
    first, second = verdicts(FIRST), verdicts(SECOND)
    files = write(tmp_path, one=first, two=second)
    write_comparison(files, tmp_path / "page.html", solutions=[solution_of(one) for one in verdicts(FIRST)])
    page = read_page(tmp_path / "page.html")
    row = page.rows[0]
    assert (row["id"], row["verifier"], row["problem"], row["prediction"]) == ("a", "one", "What is 1 + 1?", 1)
    [other] = row["others"]
    assert (other["verifier"], other["rewards"], other["prediction"], "id" in other) == ("two", [0.8, 0.6], -1, False)
    assert "-16.7" in page.text
    assert "judged step by step by 2 verifiers" in page.text
    assert [tag for tag, _ in page.tags].count("table") == 3


# ---------------------------------------------------------------------------------------------------------------------
# The command


def test_the_command_writes_a_page_a_table_and_numbers(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, one=verdicts(FIRST), two=verdicts(SECOND))
    assert main(["compare", "one.jsonl", "two.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "| one minus two | -16.7 |" in out
    output = tmp_path / "outputs" / "compare" / "one-two"
    assert output.with_suffix(".md").read_text() in out
    assert json.loads(output.with_suffix(".json").read_text())["labelled"] == 4
    assert output.with_suffix(".html").exists()
    assert main(["compare", "one.jsonl"]) == 2
    assert main(["compare", "one.jsonl", "two.jsonl", "--output", "x.md"]) == 2
    write(tmp_path, two=verdicts(SECOND)[:2])
    capsys.readouterr()
    assert main(["compare", "one.jsonl", "two.jsonl", "--overwrite"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--common" in error
    assert main(["compare", "one.jsonl", "two.jsonl", "--overwrite", "--common"]) == 0
    assert "Left out, since not all files judge these solutions: 2 of one." in capsys.readouterr().out
