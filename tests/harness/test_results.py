"""From a run of the harness to the model's card: the same numbers in the table and in `model-index`."""

from __future__ import annotations

import json
import shutil

import pytest
from huggingface_hub import ModelCard

from genprm_trl.cards.model_card import CardContent, MeasuredScore, write_model_card
from genprm_trl.cli.main import main
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.harness.results import read_scores
from tests.harness.conftest import only, run
from tests.helpers.judging_generator import BACKEND
from tests.helpers.tiny_verifiers import CHECKPOINTS

pytestmark = pytest.mark.usefixtures("own_tasks_alone")


def test_the_card_has_the_numbers_of_the_results_file(genprm_dir, processbench_dir, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(genprm_dir, model)
    earlier = MeasuredScore("miniature", "F1", 50.0, "full, Pass@1")
    write_model_card(model, CardContent("Tiny", "It is tiny.", [earlier], {"epochs": 1}))
    out = tmp_path / "out"
    assert run(model, processbench_dir, out, "--tasks", "processbench_genprm", arguments="n=2,mode=direct") == 0
    for _ in range(2):  # once more changes nothing
        assert main(["card", str(model), "--results", str(out)]) == 0
    shown = capsys.readouterr().out
    results = json.loads(only("results_*.json", out).read_text())["results"]

    card = ModelCard.load(model / "README.md")
    found = {(r.dataset_name, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert found.pop(("miniature", "F1 (full, Pass@1)")) == 50
    expected = {}
    for task, part in [("processbench_genprm", "average"), ("processbench_genprm_math", "math")]:
        for metric in ("error_acc", "correct_acc", "f1"):
            for pipeline, setting in (("maj@n", "direct, Maj@2"), ("pass@1", "direct, Pass@1, mean of 2")):
                name = ("F1" if metric == "f1" else metric, setting)
                dataset = f"rows in {processbench_dir.name} ({part})"
                expected[dataset, "{} ({})".format(*name)] = round(results[task][f"{metric},{pipeline}"], 2)
    assert expected.items() <= found.items()
    assert len(found) == 5 * 3 * 2
    average = results["processbench_genprm"]
    row = f"F1 | {average['f1,maj@n']:.1f} ± {average['f1_stderr,maj@n']:.1f} |"
    assert card.text.count(row) >= 1
    assert card.text.count("<!-- measured with lm_eval -->") == 1
    assert "It is tiny." in card.text
    assert f"F1 {average['f1,maj@n']:.1f} (direct, Maj@2)" in shown

    # Trained on, the model is another one, and so the numbers are no longer its own.
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    with pytest.raises(ConfigError, match="another model"):
        read_scores(out, model)


def test_results_of_an_ensemble_are_no_members_own(genprm_dir, processbench_dir, tmp_path):
    """The first member is what `pretrained` names."""
    member = {"backend": BACKEND, "mode": "direct"}
    arguments = {
        "pretrained": str(genprm_dir), "backend": BACKEND, "kind": "ensemble",
        "kind_options": {"first": member, "members": [{"model": str(genprm_dir), **member, "n": 2}]},
    }  # fmt: skip
    task, data = "processbench_genprm_math", json.dumps({"data_dir": str(processbench_dir)})
    words = ["--model", "genprm", "--model_args", json.dumps(arguments), "--tasks", task, "--metadata", data]
    assert main(["lm-eval", *words, "--limit", "2", "--output_path", str(tmp_path)]) == 0
    with pytest.raises(ConfigError, match="holds results of an ensemble"):
        read_scores(tmp_path, genprm_dir)


def test_discriminative_verifiers_have_scores(processbench_dir, tmp_path, capsys):
    model = tmp_path / "prm"
    CHECKPOINTS["qwen_prm"].save(model)
    task, data = "processbench_genprm_math", json.dumps({"data_dir": str(processbench_dir)})
    words = ["--model", "genprm", "--model_args", f"pretrained={model}", "--tasks", task, "--metadata", data]
    assert main(["lm-eval", *words, "--output_path", str(tmp_path / "out")]) == 0
    saved = json.loads(only("results_*.json", tmp_path / "out").read_text())
    assert saved["config"]["genprm"]["kind"] == "qwen_prm"
    assert main(["card", str(model), "--results", str(tmp_path / "out")]) == 0
    error_acc = saved["results"][task]["error_acc,maj@n"]
    assert f"error_acc {error_acc:.1f} (Pass@1)" in capsys.readouterr().out


def test_one_rationale_is_listed_once(genprm_dir, processbench_dir, tmp_path):
    out = tmp_path / "out"
    task = "processbench_genprm_math"
    assert run(genprm_dir, processbench_dir, out, "--tasks", task, arguments="n=1,mode=direct") == 0
    scores = read_scores(out, genprm_dir)
    assert sorted((score.metric, score.setting) for score in scores) == [
        (metric, "direct, Pass@1") for metric in ("F1", "correct_acc", "error_acc")
    ]


def test_a_model_without_a_card_gets_one(tmp_path):
    model = tmp_path / "solver"
    model.mkdir()
    results = {
        "results": {
            "processbench_math": {"f1,none": 40.0, "f1_stderr,none": 1.5, "error_acc,none": float("nan"), "name": "x"},
            "hellaswag": {"acc,none": 0.5},
            "best_of_n_gsm8k": {"best_min@1,none": 1.0, "best_min@4,none": 60.0, "random,none": 38.0},
        },
        "configs": {
            "processbench_math": {"metadata": {}},
            "best_of_n_gsm8k": {"metadata": {"candidates": "a/p.jsonl"}},
        },
        "n-samples": {"processbench_math": {"original": 1000, "effective": 100}},
        "config": {"model_args": {"pretrained": str(model)}},
    }
    path = tmp_path / "results_1.json"
    path.write_text(json.dumps(results))
    assert main(["card", str(model), "--results", str(path)]) == 0
    card = ModelCard.load(model / "README.md")
    assert {(r.dataset_type, r.dataset_name, r.metric_name, r.metric_value) for r in card.data.eval_results} == {
        ("Qwen/ProcessBench", "ProcessBench (math)", "F1 (greedy, 100 documents alone)", 40.0),
        ("local", "best_of_n (gsm8k, p.jsonl)", "best_min@4 (greedy)", 60.0),
        ("local", "best_of_n (gsm8k, p.jsonl)", "random (greedy)", 38.0),
    }
    assert "| ProcessBench (math) | greedy, 100 documents alone | F1 | 40.0 ± 1.5 |" in card.text
    with pytest.raises(ConfigError, match="another model"):
        read_scores(path, tmp_path)


def test_every_benchmark_of_steps_has_its_own_scores(tmp_path):
    model = tmp_path / "critic"
    model.mkdir()
    word_sorting = "bigbench_mistake_word_sorting"
    results = {
        "results": {
            "bigbench_mistake": {"accuracy,none": 41.0, "unparsable,none": 3.0},
            word_sorting: {"accuracy,none": 40.0, "accuracy_stderr,none": 2.0, "f1,none": 30.0},
            "prmbench": {"prmscore,none": 46.9, "prmscore_circular,none": 49.5, "negative_f1,none": 18.8},
            "mr_gsm8k": {"mcc,none": 25.0, "mr_score,none": 32.5, "unparsable,none": 1.0},
            "explanations": {"accuracy,none": 79.2, "kappa,none": 58.7, "gpt4_kappa,none": 1.0},
        },
        "group_subtasks": {"bigbench_mistake": [word_sorting]},
        "configs": {name: {"metadata": {}} for name in (word_sorting, "prmbench", "mr_gsm8k", "explanations")},
        "config": {"model_args": {"pretrained": str(model)}},
    }
    path = tmp_path / "results_1.json"
    path.write_text(json.dumps(results))
    assert {(score.dataset, score.metric, score.value, score.stderr) for score in read_scores(path, model)} == {
        ("BIG-Bench Mistake (average)", "accuracy", 41.0, None),
        ("BIG-Bench Mistake (word_sorting)", "accuracy", 40.0, 2.0),
        ("BIG-Bench Mistake (word_sorting)", "F1", 30.0, None),
        ("PRMBench", "prmscore", 46.9, None),
        ("PRMBench", "negative_f1", 18.8, None),
        ("MR-GSM8K", "mcc", 25.0, None),
        ("MR-GSM8K", "mr_score", 32.5, None),
        ("explanations of MR-GSM8K", "accuracy", 79.2, None),
        ("explanations of MR-GSM8K", "kappa", 58.7, None),
    }


@pytest.mark.parametrize("content", ["", "[]", '{"results": {"hellaswag": {}}}'])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "results_1.json"
    path.write_text(content)
    with pytest.raises((DataError, ConfigError)):
        read_scores(path, tmp_path)
    with pytest.raises(DataError, match="no results file"):
        read_scores(tmp_path / "none", tmp_path)
