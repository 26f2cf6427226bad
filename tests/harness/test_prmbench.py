"""PRMBench in the harness: for critics and for verifiers, on rows of this project and on the benchmark's."""

from __future__ import annotations

import json
import math
import shutil

import pytest

from genprm_trl.cli.main import main
from genprm_trl.errors import ConfigError
from tests.harness.conftest import load_tasks, only, run
from tests.helpers.paths import SAMPLES, shared_data

pytestmark = pytest.mark.usefixtures("own_tasks_alone")

# What the benchmark's own `evaluate_function` makes of `is_right` on the rows of its first test part: 90 solutions in
# eight classes with their errors, and the first 80 of multi_solutions.
PUBLISHED = {
    "prmscore": 0.469280,
    "f1": 0.750353,
    "negative_f1": 0.188206,
    "precision": 0.860952,
    "recall": 0.664935,
    "correct_step_acc": 0.664935,
    "wrong_step_acc": 0.323226,
    "total_step_acc": 0.618138,
    "first_error_acc": 0.325419,
    "similarity": 0.033495,
    "prmscore_redundency": 0.458452,
    "prmscore_circular": 0.494508,
    "prmscore_counterfactual": 0.482802,
    "prmscore_step_contradiction": 0.459743,
    "prmscore_domain_inconsistency": 0.453763,
    "prmscore_confidence": 0.466084,
    "prmscore_missing_condition": 0.482690,
    "prmscore_deception": 0.478508,
    "prmscore_multi_solutions": 0.800197,
}


@pytest.fixture
def prmbench_dir(tmp_path):
    directory = tmp_path / "rows"
    directory.mkdir()
    shutil.copy(SAMPLES / "prmbench_sample.jsonl", directory)
    return directory


@pytest.fixture
def tasks(prmbench_dir):
    return load_tasks(["prmbench", "prmbench_genprm"], data_dir=str(prmbench_dir))["tasks"]


def is_right(doc, index):
    """Stated predictions, which say nothing of the steps."""
    return (sum(map(ord, doc["id"])) + index) % 3 != 0


def answers(task, judged):
    """An answer on each document, as a critic or as a filter of verdicts has it, from what `judged` says of steps."""
    for doc in task.eval_docs:
        steps = [judged(doc, index) for index in range(len(doc["steps"]))]
        if task.config.task == "prmbench":
            yield doc, json.dumps({"validity": [1 if right else -1 for right in steps]})
        else:
            yield doc, json.dumps({"judged": [steps], "no_verdict": 0.0, "failed": False})


def scored(task, answered):
    values: dict[str, list] = {}
    for doc, text in answered:
        for name, value in task.process_results(doc, [text]).items():
            values.setdefault(name, []).append(value)
    return {name: task.aggregation()[name](items) for name, items in values.items()}


@pytest.mark.parametrize("name", ["prmbench", "prmbench_genprm"])
def test_the_numbers_are_those_of_the_benchmarks_own_code(name):
    directory = shared_data("prmbench/prm800k_test_p1_4o_circular.jsonl").parent
    task = load_tasks([name], data_dir=str(directory))["tasks"][name]
    assert (len(task.eval_docs), sum(map(len, task.eval_docs["steps"]))) == (888, 13505)
    got = scored(task, answers(task, is_right))
    assert {metric: got[metric] / 100 for metric in PUBLISHED} == pytest.approx(PUBLISHED, abs=5e-7)
    classes = ("counterfactual", "step_contradiction", "domain_inconsistency", "confidence")
    mean = sum(PUBLISHED[f"prmscore_{each}"] for each in classes) / 4
    assert got["prmscore_soundness"] / 100 == pytest.approx(mean, abs=5e-7)
    assert 0 < got["prmscore_stderr"] < 2
    assert math.isnan(got["negative_f1_multi_solutions"])  # there is nothing to be found
    assert got["f1_multi_solutions"] == got["prmscore_multi_solutions"]
    assert not math.isnan(got["negative_f1_sensitivity"])


def test_perfect_and_blind_judges(tasks):
    docs = list(tasks["prmbench"].eval_docs)
    assert len(docs) == 12  # two originals more than rows, and one row that stands there twice
    for task in tasks.values():
        got = scored(task, answers(task, lambda doc, index: index + 1 not in doc["error_steps"]))
        for name in ("prmscore", "f1", "negative_f1", "total_step_acc", "first_error_acc", "prmscore_sensitivity"):
            assert got[name] == 100, name
        blind = scored(task, answers(task, lambda doc, index: True))
        assert blind["wrong_step_acc"] == blind["first_error_acc"] == 0
        assert blind["prmscore_multi_solutions"] == 100
        assert blind["similarity"] == 0
        assert blind["prmscore"] < 50


def test_similarity_by_hand(tasks):
    # Of the originals one has two of three steps judged right, the other none; that one is left out.
    def judged(doc, index):
        if doc["classification"] == "correct":
            return doc["id"].endswith("_0") and index > 0
        return True

    task = tasks["prmbench_genprm"]
    compared = sum(doc["id"].endswith("_0") and doc["classification"] != "correct" for doc in task.eval_docs)
    assert compared == 9
    assert scored(task, answers(task, judged))["similarity"] == pytest.approx(100 / 3)


def test_what_cannot_be_read_is_misjudged_and_its_share_told(tasks):
    task = tasks["prmbench"]
    rows = [(doc, "I cannot say.") for doc in task.eval_docs]
    got = scored(task, rows)
    assert (got["unparsable"], got["total_step_acc"], got["prmscore"]) == (100, 0, 0)
    assert (got["f1"], got["negative_f1"], got["f1_multi_solutions"]) == (0, 0, 0)
    doc = task.eval_docs[1]
    thoughts = '<think>{"validity": [-1, -1, -1, -1]}</think>{"validity": [1, -1, 1, 1]}'
    values = task.process_results(doc, [thoughts])
    assert (values["unparsable"], values["f1"]["counts"]) == (0, [(3, 0, 1, 0)])
    unread = json.dumps({"judged": [[True, None, True, True]], "no_verdict": 25.0, "failed": False})
    values = tasks["prmbench_genprm"].process_results(doc, [unread])
    assert (values["no_verdict"], values["f1"]["counts"]) == (25, [(3, 1, 0, 0)])


def test_redundancy_is_judged_by_the_critics_list_of_it(tasks):
    task = tasks["prmbench"]
    said = {"validity": [1, 1, 1, 1], "redundancy": [-1, 0.5, -1, -1]}
    by_class = {doc["classification"]: doc for doc in task.eval_docs}
    redundant = task.process_results(by_class["redundency"], [json.dumps(said)])["f1"]["counts"]
    assert redundant == [(2, 1, 0, 1)]  # its third step is the one too many, and the second was named
    other = task.process_results(by_class["counterfactual"], [json.dumps(said)])["f1"]["counts"]
    assert other == [(1, 3, 0, 0)]


def test_a_critic_runs(tiny_dir, prmbench_dir, tmp_path):
    words = ["--tasks", "prmbench", "--metadata", json.dumps({"data_dir": str(prmbench_dir)}), "--limit", "4"]
    words += ["--model", "hf", "--model_args", f"pretrained={tiny_dir}", "--device", "cpu", "--apply_chat_template"]
    words += ["--gen_kwargs", "max_gen_toks=4", "--batch_size", "4", "--output_path", str(tmp_path / "out")]
    assert main(["lm-eval", *words]) == 0
    results = json.loads(only("results_*.json", tmp_path / "out").read_text())["results"]["prmbench"]
    assert (results["unparsable,none"], results["prmscore,none"]) == (100, 0)
    assert results["sample_len"] == 4


def test_a_verifier_runs_and_its_page_is_made_of_the_samples(genprm_dir, prmbench_dir, tmp_path, capsys):
    words = ["--tasks", "prmbench_genprm"]
    assert run(genprm_dir, prmbench_dir, tmp_path / "out", *words, arguments="n=2,mode=direct") == 0
    results = json.loads(only("results_*.json", tmp_path / "out").read_text())["results"]["prmbench_genprm"]
    samples = only("samples_prmbench_genprm_*", tmp_path / "out")
    rows = [row for row in map(json.loads, samples.read_text().splitlines()) if row["filter"] == "maj@n"]
    right = steps = 0
    for row in rows:
        if row["doc"]["classification"] == "correct":
            continue
        rewards = json.loads(row["resps"][0][0])["rewards"]
        assert len(rewards) == len(row["doc"]["steps"])
        truth = [number not in row["doc"]["error_steps"] for number in range(1, len(rewards) + 1)]
        right += sum((reward >= 0.5) == label for reward, label in zip(rewards, truth, strict=True))
        steps += len(rewards)
    assert results["total_step_acc,maj@n"] == pytest.approx(100 * right / steps)
    assert results["total_step_acc,pass@1"] != results["total_step_acc,maj@n"]
    assert results["no_verdict,maj@n"] == results["failed,maj@n"] == 0
    assert main(["report", str(samples), "--output", str(tmp_path / "page.html")]) == 0
    capsys.readouterr()
    # Steps that are left out have no judgement to be scored: nothing is generated.
    assert run(genprm_dir, prmbench_dir, tmp_path, *words, arguments="mode=direct,stop=first_error") == 2
    assert "leave out stop=first_error" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_verdict_on_some_steps_is_refused(tasks):
    task = tasks["prmbench_genprm"]
    with pytest.raises(ConfigError, match="must judge all of them"):
        task.process_results(task.eval_docs[0], [json.dumps({"judged": [[False]], "no_verdict": 0, "failed": False})])


def test_missing_data_are_one_line_that_says_how_to_get_them(tmp_path, capsys):
    for directory in (tmp_path, tmp_path / "none"):
        words = ["--tasks", "prmbench", "--metadata", json.dumps({"data_dir": str(directory)})]
        assert main(["lm-eval", "--model", "dummy", *words]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "hf download hitsmy/PRMBench_Preview --repo-type dataset --local-dir DIR" in error
        assert """--metadata '{"data_dir": "DIR"}'""" in error
