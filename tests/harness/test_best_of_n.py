"""Best-of-N in the harness: pools from files, one request a candidate, and the accuracies of every way to choose."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest

from genprm_trl.cli.main import main
from genprm_trl.data.pools import read_pools
from genprm_trl.errors import DataError
from genprm_trl.selection.aggregates import aggregate
from tests.harness.conftest import DATA, load_tasks, only
from tests.helpers.judging_generator import BACKEND, Judging

POOL = DATA / "gsm8k_solutions_sample.jsonl"

pytestmark = pytest.mark.usefixtures("own_tasks_alone")


def test_a_pool_through_the_harness(tiny_dir, tmp_path, capsys):
    command = ["lm-eval", "--model", "genprm", "--tasks", "best_of_n_gsm8k", "--limit", "12", "--log_samples"]
    command += ["--model_args", f"pretrained={tiny_dir},backend={BACKEND},mode=direct,n=2"]
    command += ["--metadata", json.dumps({"candidates": str(POOL)}), "--output_path", str(tmp_path)]
    assert main(command) == 0
    rows = [json.loads(line) for line in only("samples_*", tmp_path).read_text().splitlines()]
    assert len(rows) == 12
    rules = ("min", "mean", "last", "product")
    found: dict[str, list[float]] = {}
    for row in rows:
        doc = row["doc"]
        verdicts = [json.loads(responses[0]) for responses in row["resps"]]
        assert [verdict["id"] for verdict in verdicts] == doc["ids"]
        assert len(set(doc["ids"])) == 4
        source = json.loads(POOL.read_text().splitlines()[row["doc_id"]])
        names = [name for name, value in source.items() if isinstance(value, dict)]
        assert doc["correct"] == [source[name]["is_correct"] for name in names]
        # By the definition: over all subsets, the candidate with the highest score.
        for n in (1, 2, 4):
            for rule in rules:
                scores = [aggregate(verdict["rewards"], rule) for verdict in verdicts]
                subsets = list(combinations(range(4), n))
                best = [doc["correct"][max(subset, key=scores.__getitem__)] for subset in subsets]
                found.setdefault(f"best_{rule}@{n}", []).append(100 * np.mean(best))
            found.setdefault(f"pass@{n}", []).append(
                100 * np.mean([any(doc["correct"][i] for i in s) for s in subsets])
            )
        found.setdefault("random", []).append(100 * np.mean(doc["correct"]))
    results = json.loads(only("results_*.json", tmp_path).read_text())["results"]["best_of_n_gsm8k"]
    for name, values in found.items():
        assert results[f"{name},none"] == pytest.approx(np.mean(values))
        assert results[f"{name}_stderr,none"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(12))
    assert results["majority@1,none"] == results["weighted_min@1,none"] == pytest.approx(results["random,none"])
    assert results["random,none"] < results["pass@4,none"]
    # The logged samples are verdicts to look at, and to choose by.
    samples = only("samples_*", tmp_path)
    assert main(["report", str(samples), "--output", str(tmp_path / "page.html")]) == 0
    assert "solutions judged   48 " in capsys.readouterr().out
    words = ["--verdicts", str(samples), "--limit", "12", "--output", str(tmp_path / "chosen.jsonl")]
    assert main(["select", str(POOL), *words]) == 0
    chosen = [json.loads(line) for line in (tmp_path / "chosen.jsonl").read_text().splitlines()]
    for row, sample in zip(chosen, rows, strict=True):
        verdicts = [json.loads(responses[0]) for responses in sample["resps"]]
        assert [each["score"] for each in row["candidates"]] == [min(verdict["rewards"]) for verdict in verdicts]


def test_candidates_of_ones_own(tmp_path):
    rows = [
        {"problem": "1+1?", "answer": "2", "candidates": ["One.\n\n#### 2", {"text": "x\n\n#### 3"}, "#### 3.0", "?"]},
        {
            "question": "2+2?",
            "answer": 4,
            "id": "q",
            "candidates": [{"steps": ["a", "b"], "final_answer_correct": True}, "The answer is 5."],
        },
    ]
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = read_pools(str(path))
    assert (first.id, first.ids) == ("pool-1", ["pool-1-0", "pool-1-1", "pool-1-2", "pool-1-3"])
    assert first.steps[0] == ["One.", "#### 2"]
    assert first.correct == [True, False, False, False]
    assert first.votes == [0, 1, 1, None]  # 3 and 3.0 are one answer
    assert (second.id, second.answer, second.correct, second.votes) == ("q", "4", [True, False], [0, 1])
    [task] = load_tasks(["best_of_n_custom"], candidates={"custom": str(path)})["tasks"].values()
    assert task.sizes == [1, 2]  # the smallest pool


def test_missing_candidates_say_how_to_get_them(tmp_path):
    with pytest.raises(DataError, match=r"--metadata .*example_model_solutions"):
        load_tasks(["best_of_n_gsm8k"])
    with pytest.raises(DataError, match="--metadata"):
        load_tasks(["best_of_n"], candidates={"gsm8k": str(POOL)})


def test_the_generator_is_the_one_that_was_named():
    assert f"{Judging.__module__}:{Judging.__name__}" == BACKEND
