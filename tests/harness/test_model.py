"""The model `genprm` in the harness: the same numbers as `genprm verify`, the cache, the arguments."""

from __future__ import annotations

import json
import math

import pytest

from genprm_trl.cli.main import main
from genprm_trl.data.solutions import iter_verdicts, load_solutions
from genprm_trl.errors import ConfigError
from genprm_trl.harness.judge import Judge
from genprm_trl.metrics.processbench import processbench_scores
from genprm_trl.protocol import GenPRMProtocol
from genprm_trl.records import StepJudgement, Verdict
from genprm_trl.verifier.genprm import GenPRM
from tests.harness.conftest import load_tasks, only, run
from tests.helpers.judging_generator import BACKEND, Judging
from tests.helpers.running_service import running
from tests.helpers.verdict_examples import read_page

FAILING = "tests.helpers.judging_generator:Failing"

pytestmark = pytest.mark.usefixtures("own_tasks_alone")


@pytest.mark.parametrize("mode", ["direct", "full"])
def test_the_numbers_are_those_of_verify(genprm_dir, processbench_dir, tmp_path, mode):
    arguments = f"n=3,mode={mode},seed=5"
    task = "processbench_genprm_math"
    assert run(genprm_dir, processbench_dir, tmp_path / "out", "--tasks", task, arguments=arguments) == 0
    verdicts = tmp_path / "verdicts.jsonl"
    command = ["verify", str(processbench_dir / "math.json"), "--model", str(genprm_dir), "--output", str(verdicts)]
    assert main([*command, "--n", "3", "--backend", BACKEND, "--mode", mode, "--seed", "5"]) == 0
    expected = {verdict.id: verdict for verdict in iter_verdicts(verdicts)}

    saved = json.loads(only("results_*.json", tmp_path / "out").read_text())
    results = saved["results"][task]
    labels, predictions = zip(*((v.label, v.prediction) for v in expected.values()), strict=True)
    assert len(set(predictions)) > 1
    scores = processbench_scores(labels, predictions)
    assert {name: results[f"{name},maj@n"] for name in scores} == scores  # to the last digit
    alone = [
        processbench_scores(labels, [_first_below([j.reward for j in v.chains[m]]) for v in expected.values()])
        for m in range(3)
    ]
    for name in scores:
        assert results[f"{name},pass@1"] == pytest.approx(math.fsum(score[name] for score in alone) / 3)
    assert saved["config"]["genprm"]["n"] == 3
    assert saved["config"]["genprm"]["mode"] == mode

    lines = only(f"samples_{task}_*", tmp_path / "out").read_text().splitlines()
    judged = {}
    for row in map(json.loads, lines):
        judged[row["doc"]["id"]] = Verdict.from_dict(json.loads(row["resps"][0][0]))
    assert judged.keys() == expected.keys()
    judgements = [judgement for verdict in judged.values() for chain in verdict.chains for judgement in chain]
    outputs = {code_round.output for judgement in judgements for code_round in judgement.code_rounds}
    assert outputs == ({"42"} if mode == "full" else set())
    for name, verdict in judged.items():
        assert verdict.rewards == expected[name].rewards
        assert [[j.rationale for j in chain] for chain in verdict.chains] == [
            [j.rationale for j in chain] for chain in expected[name].chains
        ]


def test_the_page_of_logged_samples_is_that_of_the_verdicts(genprm_dir, processbench_dir, tmp_path, capsys):
    task, source = "processbench_genprm_math", processbench_dir / "math.json"
    assert run(genprm_dir, processbench_dir, tmp_path / "out", "--tasks", task, arguments="n=2,mode=direct") == 0
    samples = only(f"samples_{task}_*", tmp_path / "out")
    verdicts, pages = tmp_path / "verdicts.jsonl", [tmp_path / "a.html", tmp_path / "b.html"]
    command = ["verify", str(source), "--model", str(genprm_dir), "--output", str(verdicts), "--backend", BACKEND]
    assert main([*command, "--n", "2", "--mode", "direct"]) == 0
    assert main(["report", str(verdicts), "--solutions", str(source), "--output", str(pages[0])]) == 0
    capsys.readouterr()
    assert main(["report", str(samples), "--output", str(pages[1])]) == 0
    assert "labelled" in capsys.readouterr().out
    # Verdicts stand in the order in which they were finished.
    ours, theirs = (
        {row["id"]: (row, page.block(index)) for index, row in enumerate(page.rows)} for page in map(read_page, pages)
    )
    assert theirs == ours
    assert len(theirs) == len(load_solutions(source)) == len(read_page(pages[1]).rows)  # two filters have logged it


def _first_below(rewards: list[float]) -> int:
    return next((index for index, reward in enumerate(rewards) if reward < 0.5), -1)


def test_a_cache_is_of_one_verifier(genprm_dir, processbench_dir, tmp_path, capsys, monkeypatch):
    cache = str(tmp_path / "cache")
    words = ["--tasks", "processbench_genprm_gsm8k", "--limit", "3", "--use_cache", cache]
    arguments = "mode=direct"
    assert run(genprm_dir, processbench_dir, tmp_path / "a", *words, arguments=arguments) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Judge, "open", lambda self: pytest.fail("judged again"))
        assert run(genprm_dir, processbench_dir, tmp_path / "b", *words, arguments=arguments) == 0
    first, second = (json.loads(only("results_*.json", tmp_path / name).read_text())["results"] for name in ("a", "b"))
    assert first == second
    assert run(genprm_dir, processbench_dir, tmp_path / "c", *words, arguments=f"{arguments},n=2") == 2
    assert "made with other settings (n was 1 and is now" in capsys.readouterr().err


def test_gen_kwargs_sample(genprm_dir, processbench_dir, tmp_path, capsys):
    words = ["--tasks", "processbench_genprm_gsm8k", "--limit", "2", "--batch_size", "auto"]
    arguments = "n=2,mode=direct"
    assert (
        run(genprm_dir, processbench_dir, tmp_path, *words, "--gen_kwargs", "temperature=0", arguments=arguments) == 0
    )
    for row in map(json.loads, only("samples_*", tmp_path).read_text().splitlines()):
        verdict = Verdict.from_dict(json.loads(row["resps"][0][0]))
        assert verdict.chains[0] == verdict.chains[1]  # greedy
    assert run(genprm_dir, processbench_dir, tmp_path, *words, "--gen_kwargs", "max_gen_toks=9") == 2
    assert "max_step_tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs pretrained=MODEL, or server=URL"),
        ({"pretrained": "x", "temprature": 1}, "did you mean 'temperature'"),
        ({"pretrained": "x", "n": "many"}, "key 'n': invalid int value: 'many'"),
        ({"pretrained": "x", "n": True}, "key 'n': invalid int value: 'True'"),
        ({"pretrained": "x", "stop": "now"}, "key 'stop': invalid choice: 'now'"),
        ({"server": 5}, "server must be the address"),
        ({"server": " "}, "server must be the address"),
        ({"server": "http://a", "n": "many"}, "key 'n': invalid int value: 'many'"),
        ({"server": "http://a", "temperature": 1}, "'temperature' is the server's to say"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Judge.of(arguments)


def test_arguments_become_options():
    judge = Judge.of({"pretrained": 7, "temperature": 0, "backend_options": {"a": 1}, "max_chains": None})
    assert judge.options.model == "7"
    assert isinstance(judge.options.temperature, float)
    assert Judge.of({"server": "http://a http://b", "n": 2}).servers == ("http://a", "http://b")


def test_other_tasks_and_other_models_are_refused(genprm_dir, processbench_dir, tmp_path, capsys):
    assert run(genprm_dir, processbench_dir, tmp_path, "--tasks", "processbench_gsm8k", "--limit", "1") == 2
    assert "the model genprm judges solutions" in capsys.readouterr().err
    command = ["lm-eval", "--model", "dummy", "--tasks", "processbench_genprm_gsm8k", "--limit", "1"]
    assert main([*command, "--metadata", json.dumps({"data_dir": str(processbench_dir)})]) == 2
    assert "run it with --model genprm" in capsys.readouterr().err


def test_scores_of_rewards_by_hand(processbench_dir):
    task = load_tasks(["processbench_genprm_gsm8k"], data_dir=str(processbench_dir))["tasks"][
        "processbench_genprm_gsm8k"
    ]
    rewards = [(-1, [0.9, 0.8]), (1, [0.7, 0.6, 0.1]), (0, [0.2]), (-1, [0.4])]
    values: dict[str, list] = {}
    for label, row in rewards:
        kept = {
            "predictions": [_first_below(row)], "rewards": row, "threshold": 0.5, "no_verdict": 0.0
        }  # fmt: skip
        for name, value in task.process_results({"label": label}, [json.dumps(kept)]).items():
            values.setdefault(name, []).append(value)
    got = {name: task.aggregation()[name](items) for name, items in values.items()}
    # At 0.5: the wrong step of the second solution is missed, and the fourth is flagged; right 0.9 0.8 0.7, not 0.4.
    assert (got["error_acc"], got["correct_acc"], got["f1"]) == (50, 50, 50)
    # Steps: right 0.9 0.8 0.7 0.4, wrong 0.6 0.2. A threshold in (0.2, 0.4] or (0.6, 0.7] judges five of six.
    assert got["step_acc"] == pytest.approx(100 * 4 / 6)
    assert got["best_step_acc"] == pytest.approx(100 * 5 / 6)
    assert got["step_auroc"] == pytest.approx(100 * 7 / 8)
    assert got["step_ece"] == pytest.approx(100 * (0.1 + 0.2 + 0.3 + 0.6 + 0.6 + 0.2) / 6)
    # In (0.6, 0.7] both errors are found and one of two others passes; below, one error and both others.
    assert got["best_f1"] == pytest.approx(100 * 2 / 3)
    assert 0.2 < got["best_threshold"] <= 0.7
    assert got["no_verdict"] == 0


def test_a_server_judges_the_same(processbench_dir, tmp_path):
    here = GenPRM(Judging(None), None, GenPRMProtocol(mode="direct"), n=2)
    solutions = load_solutions(processbench_dir, split="omnimath", format="processbench")
    expected = {verdict.id: verdict.rewards for verdict in here.verify_all(solutions, progress=False)}
    command = ["lm-eval", "--model", "genprm", "--tasks", "processbench_genprm_omnimath", "--log_samples"]
    with running(here) as service:
        command += ["--model_args", f"server={service.url},n=2", "--output_path", str(tmp_path)]
        assert main([*command, "--metadata", json.dumps({"data_dir": str(processbench_dir)})]) == 0
    rows = map(json.loads, only("samples_*", tmp_path).read_text().splitlines())
    assert {row["doc"]["id"]: json.loads(row["resps"][0][0])["rewards"] for row in rows} == expected


def test_what_failed_is_in_no_metric(processbench_dir):
    task = load_tasks(["processbench_genprm_gsm8k"], data_dir=str(processbench_dir))["tasks"][
        "processbench_genprm_gsm8k"
    ]

    def answer(*statuses: str) -> str:
        chains = [[StepJudgement("", 0.5 if status == "error" else 0.9, status)] for status in statuses]
        return json.dumps(Verdict("a", [0.5], -1, chains).to_dict())

    instances = []
    for text in (answer("ok", "ok"), answer("ok", "error"), answer("error", "error")):
        instances.append(type("Instance", (), {"resps": [text], "doc": {}, "filtered_resps": {}})())
    task._instances = instances
    task.apply_filters()
    for name in ("maj@n", "pass@1"):
        whole, *failed = (task.process_results({"label": -1}, [i.filtered_resps[name]]) for i in instances)
        assert whole["failed"] == 0
        assert "f1" in whole
        assert failed == [{"failed": 100.0}] * 2


@pytest.mark.parametrize("status", ["truncated", "no_verdict"])
def test_what_has_no_verdict_is_wrong_in_every_metric(processbench_dir, status):
    task = load_tasks(["processbench_genprm_gsm8k"], data_dir=str(processbench_dir))["tasks"][
        "processbench_genprm_gsm8k"
    ]
    unread, read = StepJudgement("", 0.5, status), StepJudgement("", 0.9, "ok")
    judged = [(-1, [unread], [unread]), (-1, [read], [unread]), (0, [unread], [unread])]
    values: dict[str, dict[str, list]] = {"maj@n": {}, "pass@1": {}}
    for label, *chains in judged:
        rewards = [sum(step.reward for step in steps) / 2 for steps in zip(*chains, strict=True)]
        answer = json.dumps(Verdict("a", rewards, -1, chains).to_dict())
        instance = type("Instance", (), {"resps": [answer], "doc": {}, "filtered_resps": {}})()
        task._instances = [instance]
        task.apply_filters()
        for name, kept in instance.filtered_resps.items():
            for metric, value in task.process_results({"label": label}, [kept]).items():
                values[name].setdefault(metric, []).append(value)
    got = {name: {m: task.aggregation()[m](items) for m, items in found.items()} for name, found in values.items()}
    assert (got["maj@n"]["correct_acc"], got["pass@1"]["correct_acc"]) == (50.0, 25.0)
    assert got["maj@n"]["step_acc"] == pytest.approx(100 / 3)
    assert got["maj@n"]["best_step_acc"] == pytest.approx(100 / 3)
    assert got["maj@n"]["no_verdict"] == pytest.approx(500 / 6)


def test_a_pool_with_a_failure_is_in_no_metric():
    from genprm_trl.harness.best_of_n import BestOfN

    task = object.__new__(BestOfN)
    task.sizes = [1, 2]
    doc = {"votes": [0, 1], "correct": [True, False]}

    def answer(status: str) -> str:
        return json.dumps(Verdict("a", [0.5], -1, [[StepJudgement("", 0.5, status)]]).to_dict())

    assert task.process_results(doc, [answer("ok"), answer("error")]) == {}
    assert task.process_results(doc, [answer("ok"), answer("ok")])["pass@2"] == 100


def test_a_run_in_which_all_failed_has_no_scores(genprm_dir, processbench_dir, tmp_path, capsys):
    rows = json.loads((processbench_dir / "gsm8k.json").read_text())
    (tmp_path / "gsm8k.json").write_text(json.dumps([{**row, "problem": f"boom {row['problem']}"} for row in rows]))
    words = ["--model_args", f"pretrained={genprm_dir},backend={FAILING},mode=direct", "--limit", "2"]
    words += ["--metadata", json.dumps({"data_dir": str(tmp_path)}), "--tasks", "processbench_genprm_gsm8k"]
    assert main(["lm-eval", "--model", "genprm", *words]) == 2
    out, err = capsys.readouterr()
    assert "no judgement of 2 solutions holds a verdict" in err.strip().splitlines()[-1]
    assert "f1" not in out
