"""The quickstart with a real model, run with a tiny one on a few rows: the models are useless, the files are whole."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest

from genprm_trl.cli.main import main
from genprm_trl.conversation.settings import load_settings
from genprm_trl.data.solutions import iter_rationales, iter_verdicts
from genprm_trl.errors import ConfigError
from genprm_trl.labeling.data_card import decontamination_of
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.smollm2.benchmarks import read_benchmarks
from genprm_trl.smollm2.quickstart import RealPlan, run_real_quickstart
from tests.helpers.paths import SAMPLES
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.slow  # three trainings
PLAN = RealPlan(expressions=6, gsm8k=6, max_step_tokens=24, pools=2, limit=4)
LABELLED = ("bigbench", "processbench")
ARITHMETIC = [
    {"input": "(6 * 7 - -2) =", "steps": ["6 * 7 = 44.", "44 - -2 = 46."], "target": "44", "mistake_index": 0},
    {"input": "(8 - 6 * 1) =", "steps": ["6 * 1 = 6.", "8 - 6 = 2."], "target": "2", "mistake_index": None},
]


def make_data(directory: Path) -> None:
    places = {
        "gsm8k_sample": "gsm8k/train.jsonl",
        "gsm8k_solutions_sample": "gsm8k/model_solutions.jsonl",
    }
    for sample, place in places.items():
        (directory / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SAMPLES / f"{sample}.jsonl", directory / place)
    rows = [json.loads(line) for line in (SAMPLES / "processbench_sample.jsonl").open(encoding="utf-8")]
    # A problem of the training set, so that it is left out.
    question = json.loads((SAMPLES / "gsm8k_sample.jsonl").open(encoding="utf-8").readline())["question"]
    rows.append({"id": "leak", "problem": question, "steps": ["1 + 1 = 2"], "label": -1})
    rows.append({"id": "wrong", "problem": "How many?", "steps": ["1 + 1 = 3"], "label": 0})
    write_jsonl(directory / "bigbench_mistake" / "multistep_arithmetic_even.jsonl", ARITHMETIC)
    (directory / "processbench").mkdir()
    (directory / "processbench" / "gsm8k.json").write_text(json.dumps(rows[-4:]))


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> tuple[Path, Path, Path]:
    root = tmp_path_factory.mktemp("real")
    make_data(root / "data")
    copy.deepcopy(tiny_model()).save_pretrained(root / "tiny")
    tiny_tokenizer().save_pretrained(root / "tiny")
    return root / "out", root / "data", root / "tiny"


def quickstart(places: tuple[Path, Path, Path], **options) -> tuple[list[str], list[str]]:
    output, data, model = places
    told: list[str] = []
    tables = run_real_quickstart(
        output, PLAN, base_model=str(model), data_dir=str(data), announce=told.append, progress=False, **options
    )
    return tables, told


@pytest.fixture(scope="module")
def ran(places) -> tuple[list[str], list[str]]:
    return quickstart(places)


def test_data_are_decontaminated_rationales_with_a_card(places, ran):
    output = places[0] / "data"
    records = list(iter_rationales(output / "rationales.jsonl"))
    assert {record.solution.generator for record in records} == {"gsm8k", "expressions"}
    assert not any(record.solution.problem.startswith("A jar holds 48") for record in records)
    counts = decontamination_of(output / "rationales.jsonl")
    assert counts is not None
    assert counts["removed_same"] == 1
    assert counts["kept"] == len(records)
    assert "1 were left out since they are equal but for digits" in (output / "README.md").read_text(encoding="utf-8")


def test_three_models_are_trained_and_judge_every_benchmark(places, ran):
    output = places[0]
    for name, mode in (("genprm", "code_execution"), ("direct", "direct")):
        settings = load_settings(output / name)
        assert settings is not None
        assert list(settings.modes) == [mode]
    results = json.loads((output / "results.json").read_text())["results"]
    assert set(results) == {*LABELLED, "gsm8k"}
    for benchmark in LABELLED:
        assert [row["verifier"] for row in results[benchmark]] == ["rule", "discriminative", "direct", "genprm"]
        assert set(results[benchmark][-1]["scores"]) == {"accuracy", "error_acc", "correct_acc", "f1"}
    assert {row["verifier"] for row in results["gsm8k"]} == {"discriminative", "direct", "genprm"}
    assert results["bigbench"][-1]["tokens"] > 0
    verdicts = list(iter_verdicts(output / "verdicts" / "bigbench-genprm.jsonl"))
    assert len(verdicts) == 2
    tables = ran[0]
    assert "| hand-written rule | 1 | 100.0 |" in tables[0]
    assert "| oracle |" in tables[2]
    assert (output / "results.md").read_text(encoding="utf-8").startswith(tables[0])


def test_the_time_is_told_before_it_is_spent(ran):
    assert sum("tokens a second" in sentence for sentence in ran[1]) == 3
    assert any("Judging 2 solutions of bigbench with the GenPRM" in sentence for sentence in ran[1])


def test_nothing_is_done_twice_and_more_rationales_come_on_top(places, ran):
    output = places[0]
    weights = (output / "genprm" / "model.safetensors").stat().st_mtime_ns
    before = (output / "results.json").read_bytes()
    tables, told = quickstart(places)
    assert tables == ran[0]
    assert (output / "results.json").read_bytes() == before
    assert not any("Judging" in sentence for sentence in told)
    tables, told = quickstart(places, n=2)
    assert [sentence for sentence in told if "Judging" in sentence] == [
        f"Judging {number} solutions of {name}, 2 times with the GenPRM."
        for name, number in (("bigbench", 2), ("processbench", 4), ("gsm8k", 8))
    ]
    assert "| GenPRM, code_execution | Maj@2 |" in tables[0]
    assert (output / "genprm" / "model.safetensors").stat().st_mtime_ns == weights
    with pytest.raises(ConfigError, match="was made with other settings"):
        quickstart(places, seed=1)


def test_a_model_that_was_made_anew_judges_anew(places, ran):
    weights = places[0] / "discriminative" / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\1\0")
    _, told = quickstart(places)
    assert [sentence.split(" with ")[-1] for sentence in told if "Judging" in sentence] == [
        "the discriminative baseline."
    ] * 3


def test_fewer_solutions_may_be_judged(places):
    plan = RealPlan(limit=None, pools=50).judging_at_most(150)
    assert (plan.limit, plan.pools) == (150, 37)
    assert RealPlan(limit=4, pools=2).judging_at_most(150) == RealPlan(limit=4, pools=2)
    bigbench, processbench, gsm8k = read_benchmarks(places[1], limit=2, pools=1)
    assert [solution.label == -1 for solution in processbench.solutions] == [False, True]
    assert len(bigbench.solutions) == 2
    assert len(gsm8k.solutions) == 4


def test_what_is_missing_is_named_before_anything_is_made(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENPRM_SHARED_DATA", raising=False)
    assert main(["quickstart", "--real"]) == 2
    assert "Name with --data_dir a directory with gsm8k/train.jsonl" in capsys.readouterr().err
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    write_jsonl(tmp_path / "data" / "gsm8k" / "train.jsonl", [{"question": "Q", "answer": "#### 1"}])
    assert main(["quickstart", "--real", "--data_dir", "data"]) == 2
    assert "holds nothing to judge" in capsys.readouterr().err
    assert main(["quickstart", "--real", "--limit", "3", "--data_dir", "data"]) == 2
    assert "limit" in capsys.readouterr().err
    assert main(["quickstart", "--n", "8"]) == 2
    assert "are for --real" in capsys.readouterr().err
    assert not (tmp_path / "outputs" / "quickstart-real" / "base").exists()
