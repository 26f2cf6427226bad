"""MR-GSM8K in the harness: critics, verifiers, and judges of explanations."""

from __future__ import annotations

import json
import math

import pytest

from genprm_trl.cli.main import main
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.metrics.mr_gsm8k import matthews, mr_score
from tests.harness.conftest import load_tasks, only, run
from tests.helpers.chat_server import chatting
from tests.helpers.paths import SAMPLES, shared_data

pytestmark = pytest.mark.usefixtures("own_tasks_alone")

SOLUTIONS = [json.loads(line) for line in (SAMPLES / "mr_gsm8k_sample.jsonl").read_text().splitlines()]


def critique(judgement: str, step: object, reason: str) -> str:
    return (
        f"Step-by-step Evaluation: I look at it.\nFinal Judgement: {judgement}\nFirst Error Step: {step}\n"
        f"Error Analysis: {reason}"
    )


# Labels from 0: -1, 1, 0, -1, 2, 0. Of two right ones one is judged right, of four wrong ones three are judged wrong,
# two of them at the right step, and one with a good reason.
CRITIQUES = [
    critique("correct", "N/A", "N/A"),
    critique("wrong", "Step 2", "It adds what is eaten."),
    critique("incorrect", 1, "The sum has a typo."),
    critique("wrong", 1, "No."),
    critique("wrong", "N/A", "Somewhere."),
    critique("correct", "N/A", "N/A"),
]
MCC = matthews(1, 3, 1, 1)


def answer(prompt: str) -> str:
    """A critic and a judge in one."""
    if prompt.startswith("Hello GPT-4"):
        return "Final Decision: " + ("Correct" if "adds what is eaten" in prompt else "Incorrect")
    steps = ["\n".join(row["model_output_steps"]) for row in SOLUTIONS]
    return next(said for each, said in zip(steps, CRITIQUES, strict=True) if f"\n{each}\n" in prompt)


@pytest.fixture
def mr_dir(tmp_path):
    """A clone of the repository: solutions, and explanations with their solutions."""
    directory = tmp_path / "clone"
    (directory / "dataset").mkdir(parents=True)
    (directory / "dataset" / "MR-GSM8K.json").write_text(json.dumps(SOLUTIONS))
    judged = directory / "eval_results" / "gpt4-grading"
    judged.mkdir(parents=True)
    rows = [
        {
            **SOLUTIONS[number],
            "tiny_eval_output": {"error_reason": reason},
            "error_reason_correctness": people,
            "gpt4_error_reason_correctness_analysis": {"Final Decision": gpt4},
        }
        for number, reason, people, gpt4 in (
            (1, "It adds what is eaten.", "correct", "Correct"),
            (2, "The sum has a typo.", "incorrect", "- Correct"),
            (4, "Nothing is taken away.", "correct", "Wrong"),
            (5, "It should be 9.", "incorrect", "Wrong"),
        )
    ]
    (judged / "tiny_eval_results.json").write_text(json.dumps(rows))
    return directory


def lm_eval(tmp_path, *words, **metadata):
    """The harness's results of a run, by task."""
    command = ["lm-eval", "--metadata", json.dumps(metadata), "--output_path", str(tmp_path / "out"), "--log_samples"]
    assert main([*command, *words]) == 0
    return json.loads(only("results_*.json", tmp_path / "out").read_text())["results"]


def chat_model(address: str) -> list[str]:
    arguments = f"model=m,base_url={address},num_concurrent=1,max_retries=1"
    return ["--model", "local-chat-completions", "--model_args", arguments, "--apply_chat_template"]


def test_a_critic_without_a_judge_has_no_mr_score(mr_dir, tmp_path):
    with chatting(answer) as address:
        results = lm_eval(tmp_path, *chat_model(address), "--tasks", "mr_gsm8k", data_dir=str(mr_dir))["mr_gsm8k"]
    assert results["mcc,none"] == pytest.approx(100 * MCC)
    assert results["step_accuracy,none"] == 50
    assert results["mr_score_without_reason,none"] == pytest.approx(100 * mr_score(MCC, 0.5))
    assert results["unparsable,none"] == 0
    assert not {"mr_score,none", "reason_accuracy,none"} & results.keys()
    assert 0 < results["mcc_stderr,none"] < 100


def test_a_judge_on_a_server_makes_the_mr_score(mr_dir, tmp_path):
    asked = []

    def judge(prompt):
        asked.append(prompt)
        return answer(prompt)

    with chatting(answer) as address, chatting(judge) as other:
        arguments = {"model": "local-chat-completions", "model_args": {"model": "j", "base_url": other}}
        metadata = {"data_dir": str(mr_dir), "judge": arguments}
        results = lm_eval(tmp_path, *chat_model(address), "--tasks", "mr_gsm8k", **metadata)["mr_gsm8k"]
    # Explanations are judged where the error is named exactly. "Incorrect" rejects, though it holds "correct".
    assert len(asked) == 2
    assert "Ground Truth Error Reason: The pears that she eats are added.\n" in asked[0]
    assert results["reason_accuracy,none"] == 25
    assert results["mr_score,none"] == pytest.approx(100 * mr_score(MCC, 0.5, 0.25))
    assert results["judge_unparsable,none"] == 0
    rows = [json.loads(line) for line in only("samples_mr_gsm8k_*", tmp_path / "out").read_text().splitlines()]
    judged = [json.loads(row["filtered_resps"][0]).get("judge") for row in rows]
    assert judged == [None, "Final Decision: Correct", "Final Decision: Incorrect", None, None, None]


def test_any_model_of_the_harness_may_judge(tiny_dir, mr_dir, tmp_path):
    arguments = f"pretrained={tiny_dir},device=cpu"
    judge = {"model": "hf", "model_args": arguments, "gen_kwargs": {"max_gen_toks": 4}}
    with chatting(answer) as address:
        results = lm_eval(tmp_path, *chat_model(address), "--tasks", "mr_gsm8k", data_dir=str(mr_dir), judge=judge)[
            "mr_gsm8k"
        ]
    # The random model decides nothing.
    assert (results["judge_unparsable,none"], results["reason_accuracy,none"]) == (100, 0)
    assert results["mr_score,none"] == pytest.approx(results["mr_score_without_reason,none"])


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("gpt-4", "must name a model of lm_eval"),
        ({"model_args": {}}, "must name a model of lm_eval"),
        ({"model": "nosuch"}, "nosuch"),
        ({"model": "genprm"}, "judges steps, not explanations"),
        ({"model": "hf", "temperature": 1}, "'temperature' is unknown"),
        ({"model": "hf", "model_args": 5}, "model_args must be an object"),
        ({"model": "hf", "apply_chat_template": "yes"}, "must be true or false"),
        ({"model": "hf", "model_args": {"pretrained": "/nowhere/judge"}}, "hf cannot be loaded"),
    ],
)
def test_nothing_is_written_for_a_judge_that_cannot_be(mr_dir, judge, message, monkeypatch, capsys):
    monkeypatch.setattr("lm_eval.models.dummy.DummyLM.generate_until", lambda *_, **__: pytest.fail("generated"))
    metadata = json.dumps({"data_dir": str(mr_dir), "judge": judge})
    assert main(["lm-eval", "--model", "dummy", "--tasks", "mr_gsm8k", "--metadata", metadata]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_verifier_has_no_explanations(genprm_dir, mr_dir, tmp_path):
    task = "mr_gsm8k_genprm"
    assert run(genprm_dir, mr_dir, tmp_path / "out", "--tasks", task, arguments="n=2,mode=direct") == 0
    results = json.loads(only("results_*.json", tmp_path / "out").read_text())["results"][task]
    rows = map(json.loads, only(f"samples_{task}_*", tmp_path / "out").read_text().splitlines())
    rows = [row for row in rows if row["filter"] == "maj@n"]
    pairs = [(row["doc"]["label"], json.loads(row["resps"][0][0])["prediction"]) for row in rows]
    tp = sum(label == prediction == -1 for label, prediction in pairs)
    tn = sum(label != -1 and prediction != -1 for label, prediction in pairs)
    mcc = matthews(tp, tn, 4 - tn, 2 - tp)
    located = sum(label == prediction != -1 for label, prediction in pairs) / 4
    assert results["mcc,maj@n"] == pytest.approx(100 * mcc)
    assert results["step_accuracy,maj@n"] == 100 * located
    assert results["mr_score_without_reason,maj@n"] == pytest.approx(100 * mr_score(mcc, located))
    assert {"mcc,pass@1", "failed,maj@n"} <= results.keys()
    assert not any(name.startswith("mr_score,") for name in results)


def scored(task, answers):
    values: dict[str, list] = {}
    for doc, text in zip(task.eval_docs, answers, strict=True):
        for name, value in task.process_results(doc, [text]).items():
            values.setdefault(name, []).append(value)
    return {name: task.aggregation()[name](items) for name, items in values.items()}


def test_unreadable_critiques_are_misses(mr_dir):
    task = load_tasks(["mr_gsm8k"], data_dir=str(mr_dir))["tasks"]["mr_gsm8k"]
    got = scored(task, ["It is correct."] * 6)
    assert (got["unparsable"], got["step_accuracy"]) == (100, 0)
    assert got["mcc"] == -100  # no right one is judged right, no wrong one wrong
    assert got["mr_score_without_reason"] == 0
    # What is thought is no answer.
    thoughts = f"<think>{CRITIQUES[3]}</think>"
    got = scored(task, [thoughts + text for text in CRITIQUES])
    assert got["mcc"] == pytest.approx(100 * MCC)


def test_one_class_alone_has_no_correlation():
    directory = shared_data("mr_gsm8k/wrong_even.jsonl").parent
    task = load_tasks(["mr_gsm8k"], data_dir=str(directory.parent))["tasks"]["mr_gsm8k"]
    assert len(task.eval_docs) == 295
    answers = [critique("wrong", label + 1 if number % 5 else 40, "x") for number, label in enumerate(
        task.eval_docs["label"])]  # fmt: skip
    got = scored(task, answers)
    assert got["mcc"] == 0
    assert got["step_accuracy"] == pytest.approx(80)
    assert got["mr_score_without_reason"] == pytest.approx(24)


def test_explanations_as_a_task(mr_dir, tmp_path):
    with chatting(answer) as address:
        words = [*chat_model(address), "--tasks", "explanations"]
        results = lm_eval(tmp_path, *words, data_dir=str(mr_dir))["explanations"]
    # People: yes, no, yes, no. The judge: yes, no, no, no. GPT-4: yes, yes, no, no.
    assert results["accuracy,none"] == 75
    assert results["kappa,none"] == pytest.approx(50)
    assert (results["gpt4_accuracy,none"], results["gpt4_kappa,none"]) == (50, pytest.approx(0))
    assert (results["accepted,none"], results["accepted_by_people,none"]) == (25, 50)
    assert results["unparsable,none"] == 0


def test_what_decides_nothing_agrees_with_nobody(mr_dir):
    task = load_tasks(["explanations"], data_dir=str(mr_dir))["tasks"]["explanations"]
    got = scored(task, ["I cannot say."] * 4)
    assert (got["accuracy"], got["unparsable"], got["accepted"]) == (0, 100, 0)
    got = scored(task, ["Final Decision: Correct"] * 4)
    assert (got["accuracy"], got["kappa"]) == (50, 0)
    request = task.doc_to_text(task.eval_docs[1])
    assert "Ground Truth Error Reason: The bags are added to the pears.\n" in request
    assert "Student's Explanation of the Error: The sum has a typo.\n" in request


def test_what_people_and_gpt4_say_of_real_explanations():
    directory = shared_data("mr_gsm8k/explanations_even.jsonl").parent
    task = load_tasks(["explanations"], data_dir=str(directory))["tasks"]["explanations"]
    got = scored(task, ["Final Decision: Wrong"] * 433)
    assert got["gpt4_accuracy"] == pytest.approx(100 * 351 / 433)
    assert 55 < got["gpt4_kappa"] < 70
    assert got["accuracy"] == pytest.approx(100 * 246 / 433)  # people reject more than they accept
    assert got["kappa"] == 0
    assert not math.isnan(got["kappa_stderr"])


def test_an_explanation_needs_its_solution(mr_dir, tmp_path):
    rows = [{"uuid": "nobody", "critic": "c", "error_reason": "r", "error_reason_correctness": "correct"}]
    directory = tmp_path / "parts"
    directory.mkdir()
    (directory / "explanations.jsonl").write_text(json.dumps(rows[0]) + "\n")
    (directory / "MR-GSM8K.json").write_text(json.dumps(SOLUTIONS))
    with pytest.raises(DataError, match=r"explanations\.jsonl, row 1, field 'uuid': names no solution"):
        load_tasks(["explanations"], data_dir=str(directory))
    with pytest.raises(ConfigError, match="data_dir must be a path"):
        load_tasks(["explanations"], data_dir=3)


@pytest.mark.parametrize("task", ["mr_gsm8k", "explanations"])
def test_missing_data_are_one_line_that_says_how_to_get_them(task, tmp_path, capsys):
    words = ["--tasks", task, "--metadata", json.dumps({"data_dir": str(tmp_path)})]
    assert main(["lm-eval", "--model", "dummy", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "git clone https://github.com/dvlab-research/MR-GSM8K DIR" in error
    assert """--metadata '{"data_dir": "DIR"}'""" in error
