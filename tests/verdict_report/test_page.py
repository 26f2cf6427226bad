"""The page as a file: nothing of it can run or reach the network but its own script, and all input has an outcome."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import tracemalloc
from pathlib import Path

import pytest

from genprm_trl.cli.main import main
from genprm_trl.records import Solution, StepJudgement, Verdict
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.verdict_report import write_report
from genprm_trl.verdict_report.figures import Judged, measure
from tests.helpers.verdict_examples import HOSTILE, judgement, make_page, read_page, solution_of, verdict


def written(chain: list[dict]) -> list[str]:
    """The rationales of a chain on the page."""
    return ["".join(passage[1] for passage in one["passages"]) for one in chain]


def hostile_page(tmp_path: Path) -> Path:
    bad = verdict(HOSTILE, [[0.9, 0.2]] * 2, label=1)
    for chain in bad.chains:
        for one in chain:
            one.rationale = HOSTILE + one.rationale
            one.code_rounds[0].code = one.code_rounds[0].output = one.code_rounds[0].status = HOSTILE
    solution = solution_of(bad, HOSTILE, answer=HOSTILE, generator=HOSTILE)
    solution.steps = [HOSTILE, HOSTILE]
    bad.solution_digest = solution.digest
    name = "<b>&\"'.jsonl"
    settings = {"model": HOSTILE, HOSTILE: [HOSTILE]}
    tmp_path.joinpath(name + ".settings.json").write_text(json.dumps(settings), encoding="utf-8")
    write_jsonl(tmp_path / name, [bad])
    write_jsonl(tmp_path / "solutions.jsonl", [solution])
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / name), "--solutions", str(tmp_path / "solutions.jsonl"), "--output",
                 str(page)]) == 0  # fmt: skip
    return page


def test_rationales_do_not_stay_in_memory(tmp_path):
    def peak(n: int) -> int:
        """Bytes that Python allocated at most, with a rationale of 20 KB that cannot be packed well in each row."""
        path, page = tmp_path / f"{n}.jsonl", tmp_path / f"{n}.html"
        texts = (random.Random(number).randbytes(10_000).hex() for number in range(n))
        write_jsonl(path, (Verdict(f"s{i}", [0.9], -1, [[StepJudgement(t, 0.9, "ok")]]) for i, t in enumerate(texts)))
        tracemalloc.start()
        write_report(path, page)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert page.stat().st_size > n * 10_000
        assert page.read_text().count("<template") == n
        return found

    peak(5)  # imports
    few, many = peak(100), peak(400)
    assert many - few < 300 * 4000


def test_what_models_write_is_never_markup(tmp_path):
    page = read_page(hostile_page(tmp_path))
    kinds = [attributes.get("type") for attributes, _ in page.scripts]
    assert kinds == ["application/json", None]
    assert {"img", "textarea"}.isdisjoint(tag for tag, _ in page.tags)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert HOSTILE in page.text  # the settings, as text
    assert "<b>&\"'.jsonl" in page.text
    # All of it is there all the same, to the last character.
    assert page.rows[0]["id"] == HOSTILE
    details = page.block(0)
    assert details["problem"] == details["answer"] == details["generator"] == HOSTILE
    assert details["steps"] == [HOSTILE, HOSTILE]
    assert all(text.startswith(HOSTILE) for chain in details["chains"] for text in written(chain))
    assert details["chains"][0][0]["others"][0][:3] == [HOSTILE] * 3


def test_the_policy_allows_the_pages_own_script_and_style_alone(tmp_path):
    path = hostile_page(tmp_path)
    page = read_page(path)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    [script] = [text for attributes, text in page.scripts if "type" not in attributes]
    for name, text in (("script-src", script), ("style-src", page.style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules.pop(name) == f"'sha256-{digest}'"
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    head = path.read_text(encoding="utf-8").partition("<style>")[0]
    assert head.startswith("<!doctype html>\n<html")
    assert head.index("charset") < head.index("Content-Security-Policy") < 1024


def test_nothing_is_loaded_from_anywhere(tmp_path):
    verdicts = [verdict("a", [[0.9, 0.2]] * 2, label=1), verdict("b", [[0.9]] * 2, label=-1)]
    page = read_page(make_page(tmp_path, verdicts))
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/svg+xml")), (tag, name, value)
        assert "style" not in attributes  # the policy would ignore it
    [script] = [text for attributes, text in page.scripts if "type" not in attributes]
    assert "url(" not in page.style
    assert "@import" not in page.style
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "import("):
        assert forbidden not in script
    # Not one character of the assets could end the element that holds them.
    assert "<" not in page.style
    assert not re.search(r"</?script|<!--", script, re.IGNORECASE)


def test_a_solution_without_a_verdict_is_no_right_one(tmp_path):
    one = verdict("gsm8k-0", [[0.5, 0.9]], label=-1)
    one.chains[0][0].status = "truncated"
    page = read_page(make_page(tmp_path, [one]))
    assert (page.rows[0]["prediction"], page.rows[0]["unread"]) == (-1, True)
    figures = measure([Judged.of(one, 2), Judged.of(verdict("b", [[0.2]], label=0), 1)])
    assert figures.scores == {"error_acc": 100.0, "correct_acc": 0.0, "f1": 0.0}
    assert figures.by_threshold[0.3]["correct_acc"] == 0.0


def test_rows_and_details_are_those_of_the_file(tmp_path):
    one = verdict("gsm8k-0", [[0.9, 0.2], [0.9, 0.6], [0.8, 0.1]], label=-1, n=8)
    one.chains[2][0].status = "fallback"
    solution = solution_of(one, "How many?", answer="2", final_answer_correct=True, generator="policy")
    page = read_page(make_page(tmp_path, [one], [solution]))
    assert page.rows == [
        {
            "id": "gsm8k-0", "rewards": [0.8667, 0.3], "prediction": 1, "label": -1, "threshold": 0.5, "chains": 3,
            "asked": 8, "agree": 2, "unread": False, "statuses": {"ok": 5, "fallback": 1}, "problem": "How many?",
            "steps": 2, "final": True,
        }
    ]  # fmt: skip
    details = page.block(0)
    assert details["steps"] == solution.steps
    assert [written(chain) for chain in details["chains"]] == [[s.rationale for s in chain] for chain in one.chains]
    assert details["chains"][2][0]["status"] == "fallback"
    outputs = [passage for passage in details["chains"][0][1]["passages"] if passage[0] == "output"]
    assert outputs == [["output", "2", "ok", 0.002]]
    assert "2 of 8" not in page.text
    assert "of 8 asked for" in page.text


def test_charts_are_there_without_the_script(tmp_path):
    chains = [[0.9, 0.2], [0.8, 0.3]]
    page = read_page(make_page(tmp_path, [verdict("a", chains, label=1), verdict("b", [[0.9]] * 2, label=-1),
                                          verdict("c", [[0.1, 0.9]] * 2, label=0)]))  # fmt: skip
    drawings = [a["aria-label"] for tag, a in page.tags if tag == "svg" and a.get("class") == "drawing"]
    assert [name.partition(".")[0] for name in drawings] == [
        "Rewards of steps", "Reliability", "F1 against rationales", "F1 against the threshold",
    ]  # fmt: skip
    assert re.search(r"ProcessBench F1\s*100\.0", page.text)
    assert [tag for tag, _ in page.tags].count("table") == 4


@pytest.mark.parametrize("status", ["ok", "fallback", "no_verdict", "truncated", "error"])
def test_every_status_and_verdicts_without_text(tmp_path, status):
    one = Verdict("a", [0.5], -1, [[judgement(0, 0.5, status)]])
    one.chains[0][0].rationale = ""
    page = read_page(make_page(tmp_path, [one, Verdict("b", [0.3], 0, []), Verdict("c", [], -1, [])]))
    assert [row["statuses"] for row in page.rows] == [{status: 1}, {}, {}]
    assert page.block(0)["chains"][0][0]["passages"] == []
    assert len(page.block(0)["chains"][0][0]["others"]) == 1  # its code ran, and is not lost
    assert page.block(1) == {"chains": []}
    assert ("judgements failed" in page.text) == (status == "error")


def test_odd_texts_come_through(tmp_path):
    one = verdict("a", [[0.9]])
    one.chains[0][0].rationale = "\ud800 half a pair, \U0001f600 a whole one, " + "x" * 3_000_000
    page = read_page(make_page(tmp_path, [one]))
    # The file of verdicts itself holds U+FFFD for the half.
    assert written(page.block(0)["chains"][0])[0] == one.chains[0][0].rationale.replace("\ud800", "\ufffd")
    assert (tmp_path / "report.html").stat().st_size < 200_000


def test_equal_files_make_equal_pages(tmp_path):
    verdicts = [verdict(str(n), [[0.9, 0.2]] * 2, label=n % 2 * 2 - 1) for n in range(4)]
    first = make_page(tmp_path, verdicts).read_bytes()
    assert make_page(tmp_path, verdicts).read_bytes() == first


# ---------------------------------------------------------------------------------------------------------------------
# The command


def test_the_default_output_is_beside_the_verdicts(tmp_path, capsys):
    write_jsonl(tmp_path / "v.jsonl", [verdict("a", [[0.9]])])
    assert main(["report", str(tmp_path / "v.jsonl")]) == 0
    assert (tmp_path / "v.html").stat().st_size > 10_000
    out = capsys.readouterr().out
    assert "solutions judged   1 (0 with a step judged wrong)" in out
    assert f"report             {tmp_path / 'v.html'}" in out


def refused(capsys, *words: object) -> str:
    assert main(["report", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_bad_input_names_file_row_and_field(tmp_path, capsys):
    path = tmp_path / "v.jsonl"
    good = json.dumps(verdict("a", [[0.9]]).to_dict())
    for line, message in (
        ('{"id": "b", "prediction": 0}', "row 2, field 'rewards': is missing"),
        ('{"id": "b", "rewards": [1.5], "prediction": 0}', "row 2, field 'rewards[0]'"),
        ("[]", "row 2: must be a JSON object"),
        ("{broken", "row 2: is not valid JSON"),
    ):
        path.write_text(f"{good}\n{line}\n{good}\n", encoding="utf-8")
        assert f"{path}, {message}" in refused(capsys, path)
    assert not (tmp_path / "v.html").exists()
    path.write_text(good.replace('"ok"', '"fine"', 1) + "\n", encoding="utf-8")
    assert "status" in refused(capsys, path)


def test_files_that_make_no_page(tmp_path, capsys):
    path = tmp_path / "v.jsonl"
    assert "cannot be read" in refused(capsys, path)
    path.write_bytes(b"")
    assert "holds no verdicts" in refused(capsys, path)
    write_jsonl(path, [verdict("a", [[0.9]])])
    assert "is a directory" in refused(capsys, path, "--output", tmp_path)
    assert "is read by this command" in refused(capsys, path, "--output", tmp_path / "." / "v.jsonl")
    assert "cannot be written" in refused(capsys, path, "--output", path / "below.html")
    assert "solutions.jsonl" in refused(capsys, path, "--solutions", tmp_path / "solutions.jsonl")
    assert path.stat().st_size


def test_a_torn_last_line_is_left_out(tmp_path, capsys):
    path = tmp_path / "v.jsonl"
    write_jsonl(path, [verdict("a", [[0.9]]), verdict("b", [[0.9]])])
    path.write_bytes(path.read_bytes()[:-20])
    assert main(["report", str(path)]) == 0
    assert [row["id"] for row in read_page(path.with_suffix(".html")).rows] == ["a"]
    assert "torn last line" in capsys.readouterr().err


def test_solutions_that_do_not_fit(tmp_path, capsys):
    path, solutions = tmp_path / "v.jsonl", tmp_path / "s.jsonl"
    one, other = verdict("a", [[0.9, 0.8]]), verdict("b", [[0.9]])
    fitting = solution_of(one)
    write_jsonl(path, [one, other])
    write_jsonl(solutions, [fitting])
    assert main(["report", str(path), "--solutions", str(solutions)]) == 0
    assert "1 of 2 verdicts have no solution" in capsys.readouterr().err
    write_jsonl(solutions, [Solution("a", "Another?", fitting.steps)])
    assert "a verdict of 'a' about another text" in refused(capsys, path, "--solutions", solutions)
    one.solution_digest = ""
    write_jsonl(path, [one])
    write_jsonl(solutions, [Solution("a", "Another?", fitting.steps[:1])])
    assert "a verdict of 'a' about another text" in refused(capsys, path, "--solutions", solutions)


def test_labels_are_those_of_the_solutions_that_are_given(tmp_path, capsys):
    path, solutions = tmp_path / "v.jsonl", tmp_path / "s.jsonl"
    judged = verdict("a", [[0.9, 0.8]], label=1)
    write_jsonl(path, [judged])
    corrected = solution_of(judged)
    corrected.label = -1
    write_jsonl(solutions, [corrected])
    assert main(["report", str(path), "--solutions", str(solutions)]) == 0
    assert [row["label"] for row in read_page(path.with_suffix(".html")).rows] == [-1]
    assert "correct_acc 100.0" in capsys.readouterr().out


def test_settings_that_cannot_be_read_are_no_obstacle(tmp_path):
    path = tmp_path / "v.jsonl"
    write_jsonl(path, [verdict("a", [[0.9]])])
    for content in ("{broken", "[1]", "null", '{"model": null, "n": 8}'):
        Path(f"{path}.settings.json").write_text(content, encoding="utf-8")
        assert main(["report", str(path)]) == 0
    assert "judged step by step by" not in read_page(tmp_path / "v.html").text
