"""BIG-Bench Mistake in the harness: for critics and for verifiers, on rows of this project and on the benchmark's."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from fractions import Fraction

import pytest

from genprm_trl.cli.main import main
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.metrics.processbench import processbench_scores
from tests.harness.conftest import load_tasks, only, run
from tests.helpers.file_server import serving_files
from tests.helpers.paths import SAMPLES, shared_data

TASKS = ("dyck_languages", "logical_deduction", "multistep_arithmetic", "tracking_shuffled_objects", "word_sorting")

pytestmark = pytest.mark.usefixtures("own_tasks_alone")


@pytest.fixture
def mistake_dir(tmp_path):
    """A directory of several benchmarks with a folder for this one, as a clone of its repository is."""
    directory = tmp_path / "data" / "bigbench_mistake"
    directory.mkdir(parents=True)
    for task in TASKS:
        (directory / f"{task}.jsonl").write_text((SAMPLES / "bigbench_mistake_sample.jsonl").read_text())
    return directory.parent


def scored(task, rows):
    """The scores of (label, answer) pairs, as the harness makes them."""
    values: dict[str, list] = {}
    for label, text in rows:
        for name, value in task.process_results({"label": label}, [text]).items():
            values.setdefault(name, []).append(value)
    return {name: task.aggregation()[name](items) for name, items in values.items()}


def test_the_group_is_five_tasks_for_critics_and_for_verifiers(mistake_dir):
    for group in ("bigbench_mistake", "bigbench_mistake_genprm"):
        tasks = load_tasks([group], data_dir=str(mistake_dir))["tasks"]
        assert set(tasks) == {f"{group}_{task}" for task in TASKS}
        assert all(len(task.eval_docs) == 6 for task in tasks.values())


def test_the_request_says_what_the_task_is(mistake_dir):
    tasks = load_tasks(["bigbench_mistake"], data_dir=str(mistake_dir))["tasks"]
    task = tasks["bigbench_mistake_dyck_languages"]
    prompt = task.doc_to_text(task.eval_docs[4])
    assert "making sure that the parentheses are closed properly. Input: [ ( {\n" in prompt
    assert "<paragraph_1>\n(blank)\n</paragraph_1>" in prompt
    assert r"\boxed{}" in prompt
    assert "math" not in prompt
    sorting = tasks["bigbench_mistake_word_sorting"]
    assert "[Task]\n\nSort the following words alphabetically: List: " in sorting.doc_to_text(sorting.eval_docs[0])


def test_accuracy_is_over_all_traces_and_the_classes_stand_beside_it(mistake_dir):
    task = load_tasks(["bigbench_mistake_word_sorting"], data_dir=str(mistake_dir))["tasks"][
        "bigbench_mistake_word_sorting"
    ]
    # Four mistakes, of which one is named exactly; one of two without a mistake is found to have none.
    rows = [(2, r"\boxed{2}"), (1, r"\boxed{2}"), (0, r"\boxed{-1}"), (3, "none"), (-1, r"\boxed{-1}"), (-1, "2")]
    got = scored(task, rows)
    assert got["accuracy"] == pytest.approx(100 * 2 / 6)
    assert (got["error_acc"], got["correct_acc"], got["f1"]) == (25, 50, pytest.approx(100 / 3))
    assert got["unparsable"] == pytest.approx(100 / 3)
    # One class alone still has an accuracy.
    got = scored(task, [(0, r"\boxed{0}"), (1, r"\boxed{0}")])
    assert got["accuracy"] == 50
    assert got["f1"] != got["f1"]


def test_a_critic_runs_on_the_group(tiny_dir, mistake_dir, tmp_path):
    words = ["--tasks", "bigbench_mistake", "--metadata", json.dumps({"data_dir": str(mistake_dir)}), "--limit", "2"]
    words += ["--model", "hf", "--model_args", f"pretrained={tiny_dir}", "--device", "cpu", "--apply_chat_template"]
    words += ["--gen_kwargs", "max_gen_toks=4", "--batch_size", "10", "--output_path", str(tmp_path / "out")]
    assert main(["lm-eval", *words]) == 0
    results = json.loads(only("results_*.json", tmp_path / "out").read_text())
    group = results["groups"]["bigbench_mistake"]
    # The random model never writes an index.
    assert (group["accuracy,none"], group["f1,none"], group["unparsable,none"]) == (0, 0, 100)
    assert group["accuracy_stderr,none"] == 0


def test_a_verifier_runs_and_its_page_is_made_of_the_samples(genprm_dir, mistake_dir, tmp_path, capsys):
    name = "bigbench_mistake_genprm_multistep_arithmetic"
    assert run(genprm_dir, mistake_dir, tmp_path / "out", "--tasks", name, arguments="n=2,mode=direct") == 0
    results = json.loads(only("results_*.json", tmp_path / "out").read_text())["results"][name]
    samples = only(f"samples_{name}_*", tmp_path / "out")
    rows = [row for row in map(json.loads, samples.read_text().splitlines()) if row["filter"] == "maj@n"]
    labels = [row["doc"]["label"] for row in rows]
    predictions = [json.loads(row["resps"][0][0])["prediction"] for row in rows]
    assert labels == [2, -1, 0, 2, -1, 0]
    hits = [label == prediction for label, prediction in zip(labels, predictions, strict=True)]
    assert results["accuracy,maj@n"] == pytest.approx(100 * sum(hits) / 6)
    for metric, value in processbench_scores(labels, predictions).items():
        assert results[f"{metric},maj@n"] == value
    assert results["failed,pass@1"] == 0
    capsys.readouterr()
    assert main(["report", str(samples), "--output", str(tmp_path / "page.html")]) == 0
    assert "((3 + 4) * (2 - 5)) =" in (tmp_path / "page.html").read_text()
    # A verifier's task on a critic is refused at once.
    assert main(["lm-eval", "--model", "hf", "--tasks", name]) == 2
    assert "is for verifiers: run it with --model genprm, not hf" in capsys.readouterr().err


def test_a_part_of_a_task_goes_by_its_name(mistake_dir):
    directory = mistake_dir / "bigbench_mistake"
    (directory / "word_sorting.jsonl").rename(directory / "word_sorting_half.jsonl")
    tasks = load_tasks(["bigbench_mistake_word_sorting"], data_dir=str(directory))["tasks"]
    assert len(tasks["bigbench_mistake_word_sorting"].eval_docs) == 6


def test_the_data_come_from_an_address(mistake_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.DOWNLOADED_DATASETS_PATH", str(tmp_path / "cache"))
    with serving_files(mistake_dir / "bigbench_mistake") as address:
        tasks = load_tasks(["bigbench_mistake_word_sorting"], data_dir=address)["tasks"]
        assert [doc["label"] for doc in tasks["bigbench_mistake_word_sorting"].eval_docs] == [2, -1, 0, 2, -1, 0]
        (mistake_dir / "bigbench_mistake" / "logical_deduction.jsonl").unlink()
        with pytest.raises(DataError, match=f"{address}/logical_deduction.jsonl: cannot be downloaded"):
            load_tasks(["bigbench_mistake_logical_deduction"], data_dir=address)


def test_missing_data_are_one_line_that_says_how_to_get_them(mistake_dir, tmp_path, capsys):
    (mistake_dir / "bigbench_mistake" / "dyck_languages.jsonl").unlink()
    command = ["lm-eval", "--model", "dummy", "--tasks", "bigbench_mistake_dyck_languages"]
    for directory in (mistake_dir, tmp_path / "none"):
        assert main([*command, "--metadata", json.dumps({"data_dir": str(directory)})]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "git clone https://github.com/WHGTyen/BIG-Bench-Mistake DIR" in error
        assert """--metadata '{"data_dir": "DIR"}'""" in error
        assert ("--tasks bigbench_mistake_logical_deduction,bigbench_mistake_" in error) is (directory == mistake_dir)
    with pytest.raises(ConfigError, match="data_dir must be a path, not 5"):
        load_tasks(["bigbench_mistake_dyck_languages"], data_dir=5)


def test_a_bad_row_is_named(mistake_dir):
    path = mistake_dir / "bigbench_mistake" / "word_sorting.jsonl"
    path.write_text(path.read_text().replace('"mistake_index": 0', '"mistake_index": 7'))
    with pytest.raises(DataError, match=r"word_sorting\.jsonl, row 3, field 'mistake_index'"):
        load_tasks(["bigbench_mistake_word_sorting"], data_dir=str(mistake_dir))


def stated_equalities_hold(step: str) -> bool:
    """Whether all that a step says to be equal has the same value, as far as it is plain arithmetic."""
    for statement in re.split(r'[,"]|\. |\.$|\b[a-z]\w+\b', step):
        values = set()
        for term in re.split("=", statement):
            if re.fullmatch(r"[-+*() \d]*\d[-+*() \d]*", term):
                with suppress(SyntaxError, TypeError):
                    values.add(Fraction(eval(term.strip())))
        if len(values) > 1:
            return False
    return True


def test_a_rule_that_recomputes_each_step_scores_high_on_real_traces():
    directory = shared_data("bigbench_mistake/multistep_arithmetic_even.jsonl").parent
    name = "bigbench_mistake_multistep_arithmetic"
    task = load_tasks([name], data_dir=str(directory))["tasks"][name]
    assert len(task.eval_docs) == 150
    rows = []
    for doc in task.eval_docs:
        wrong = next((index for index, step in enumerate(doc["steps"]) if not stated_equalities_hold(step)), -1)
        rows.append((doc["label"], f"\\boxed{{{wrong}}}"))
    got = scored(task, rows)
    # Recomputing finds almost all mistakes; where it is wrong, a step copies the problem wrongly, or a label is odd.
    assert got["error_acc"] == pytest.approx(100 * 116 / 119)
    assert got["correct_acc"] == pytest.approx(100 * 26 / 31)
    assert got["accuracy"] == pytest.approx(100 * 142 / 150)
