"""The policy samples, the verifier picks: a real (tiny, random) policy of the harness, the verifier on a server."""

from __future__ import annotations

import json

import numpy as np
import pytest

from genprm_trl.cli.main import main
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.protocol import GenPRMProtocol
from genprm_trl.selection.aggregates import aggregate
from genprm_trl.verifier.genprm import GenPRM
from tests.harness.conftest import load_tasks, only
from tests.helpers.judging_generator import Judging
from tests.helpers.running_service import running

pytestmark = pytest.mark.usefixtures("own_tasks_alone")


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "problems.jsonl"
    rows = [{"question": f"What is {a} + 1?", "answer": str(a + 1)} for a in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_policy_samples_and_a_server_picks(tiny_dir, problems, tmp_path):
    verifier = GenPRM(Judging(None), None, GenPRMProtocol(mode="direct"))
    command = ["lm-eval", "--model", "hf", "--model_args", f"pretrained={tiny_dir}", "--device", "cpu"]
    command += ["--tasks", "policy_best_of_n_custom", "--gen_kwargs", "max_gen_toks=12", "--batch_size", "8"]
    command += ["--apply_chat_template", "--log_samples", "--output_path", str(tmp_path / "out")]
    with running(verifier) as service:
        metadata = {"problems": str(problems), "verifier": {"server": service.url, "n": 2}}
        assert main([*command, "--metadata", json.dumps(metadata)]) == 0
    rows = [json.loads(line) for line in only("samples_*", tmp_path / "out").read_text().splitlines()]
    assert len(rows) == 3
    judged = 0
    for row in rows:
        [texts], [filtered] = row["resps"], row["filtered_resps"]
        samples = [json.loads(text) for text in filtered]
        assert [sample["text"] for sample in samples] == texts
        assert len(set(texts)) > 1
        for sample in samples:
            if sample["verdict"]:
                judged += 1
                assert len(sample["verdict"]["chains"]) == 2
    assert judged > 12
    results = json.loads(only("results_*.json", tmp_path / "out").read_text())["results"]["policy_best_of_n_custom"]
    names = ("best_min@8", "weighted_product@4", "majority@2", "pass@8")
    assert {f"{name},verifier" for name in names} <= results.keys()


def test_scores_of_constructed_samples(problems, monkeypatch):
    metadata = {"problems": str(problems), "verifier": {"server": "http://127.0.0.1:1"}}
    [task] = load_tasks(["policy_best_of_n_custom"], **metadata)["tasks"].values()
    assert task.sizes == [1, 2, 4, 8]
    samples = [
        {"text": text, "verdict": {"rewards": rewards} if rewards else None}
        for text, rewards in [
            ("1 + 1\n\nThe answer is 2.", [0.9, 0.4]),
            ("The answer is 3.", [0.8]),
            ("The answer is 3.", [0.7]),
            ("", None),
            ("no idea", [0.1]),
            ("\\boxed{2}", [0.6]),
            ("\\boxed{5}", [0.2]),
            ("\\boxed{2.0}", [0.3]),
        ]
    ]
    got = task.process_results({"answer": "2"}, [[json.dumps(sample) for sample in samples]])
    right = np.array([1, 0, 0, 0, 0, 1, 0, 1])
    assert got["random"] == 100 * right.mean()
    assert got["best_min@8"] == 0  # 0.8 for a wrong one
    assert got["best_last@8"] == 0
    assert got["majority@8"] == 100  # three votes for 2
    assert got["weighted_min@8"] == 0  # 0.4 + 0.6 + 0.3 against 0.8 + 0.7
    assert got["weighted_mean@8"] == 100  # 0.65 + 0.6 + 0.3 against 1.5
    scores = [aggregate(sample["verdict"]["rewards"]) if sample["verdict"] else 0.0 for sample in samples]
    pairs = [(i, j) for i in range(8) for j in range(i)]
    best = [right[max(pair, key=scores.__getitem__)] for pair in pairs]
    assert got["best_min@2"] == pytest.approx(100 * np.mean(best))


@pytest.mark.parametrize(
    ("verifier", "message"),
    [
        (None, "needs a verifier"),
        ({"n": 2}, "--metadata verifier: needs pretrained"),
        ({"server": "x", "t": 1}, "'t'"),
    ],
)
def test_a_verifier_is_needed(problems, verifier, message):
    with pytest.raises(ConfigError, match=message):
        load_tasks(["policy_best_of_n_custom"], problems=str(problems), verifier=verifier)


def test_nothing_is_sampled_for_a_server_that_is_away(problems, monkeypatch, capsys):
    monkeypatch.setattr("genprm_trl.harness.policy._PATIENCE", 0.0)
    monkeypatch.setattr("lm_eval.models.dummy.DummyLM.generate_until", lambda *_, **__: pytest.fail("sampled"))
    metadata = {"problems": str(problems), "verifier": {"server": "http://127.0.0.1:1"}}
    command = ["lm-eval", "--model", "dummy", "--tasks", "policy_best_of_n_custom", "--metadata", json.dumps(metadata)]
    assert main(command) == 2
    assert "http://127.0.0.1:1 is not ready" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verifier", "message"),
    [
        ({"pretrained": "/nowhere/genprm"}, "/nowhere/genprm does not exist"),
        ({"pretrained": "x", "n": 0}, "at least 1"),
    ],
)
def test_nothing_is_sampled_for_a_verifier_that_cannot_be(problems, verifier, message, monkeypatch, capsys):
    monkeypatch.setattr("lm_eval.models.dummy.DummyLM.generate_until", lambda *_, **__: pytest.fail("sampled"))
    metadata = json.dumps({"problems": str(problems), "verifier": verifier})
    command = ["lm-eval", "--model", "dummy", "--tasks", "policy_best_of_n_custom", "--metadata", metadata]
    assert main(command) == 2
    assert message in capsys.readouterr().err


def test_missing_problems_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("gsm8k", "custom"):
        with pytest.raises(DataError, match="--metadata"):
            load_tasks([f"policy_best_of_n_{name}"], verifier={"server": "http://127.0.0.1:1"})
