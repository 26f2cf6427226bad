"""What a command needs is asked before a model is loaded, and what failed is in no score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genprm_trl.cli.main import main
from genprm_trl.data.solutions import iter_verdicts
from genprm_trl.errors import ConfigError
from genprm_trl.generation.hf.generator import TransformersGenerator
from genprm_trl.harness.judge import Judge
from genprm_trl.records import Solution, StepJudgement, Verdict
from genprm_trl.rewards import GenPRMReward
from genprm_trl.sandbox import FusionSandbox
from genprm_trl.stages.run import ItemFailed
from genprm_trl.verifier import GenPRM
from tests.helpers.completion_server import CompletionServer
from tests.helpers.fusion_server import FusionServer
from tests.helpers.judging_generator import BACKEND
from tests.helpers.judging_model import judging_model
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer
from tests.helpers.verdict_examples import summary_of

NOBODY = "http://127.0.0.1:9"
UNLOADABLE = "tests.helpers.judging_generator:Unloadable"
FAILING = "tests.helpers.judging_generator:Failing"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def write(path: Path, *rows: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


SOLUTIONS = [
    {"id": "a", "problem": "1+1?", "steps": ["1+1=2", "So 2."], "label": -1, "final_answer_correct": True},
    {"id": "b", "problem": "boom 1+1?", "steps": ["1+1=3"], "label": 0, "final_answer_correct": False},
    {"id": "c", "problem": "boom 2+1?", "steps": ["2+1=3"], "label": -1, "final_answer_correct": True},
]
CANDIDATES = [{"problem": "1+1?", "answer": "2", "candidates": ["#### 2", "#### 3"]}]
PROBLEMS = [{"problem": "1+1?", "answer": "2"}]


@pytest.mark.parametrize("command", ["verify", "select", "search", "refine", "serve"])
@pytest.mark.parametrize("server", [["--sandbox", NOBODY], ["--backend", "server", "--server_url", f"{NOBODY}/v1"]])
def test_a_missing_server_is_found_before_a_model_is_loaded(model, tmp_path, capsys, command, server):
    words = ["--model", str(model), *server]
    if "--backend" not in server:
        words += ["--backend", UNLOADABLE]
    if command in ("search", "refine"):
        words += ["--policy", str(model), "--policy_backend", UNLOADABLE]
    if command == "serve":
        words += ["--port", "0"]
    else:
        rows = {"verify": SOLUTIONS[:1], "select": CANDIDATES}.get(command, PROBLEMS)
        words = [write(tmp_path / "in.jsonl", *rows), *words, "--output", str(tmp_path / "out.jsonl")]
    assert main([command, *words]) == 2
    *_, error = capsys.readouterr().err.strip().splitlines()
    assert error.startswith(f"genprm {command}: error: ")
    assert "127.0.0.1:9" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("command", ["search", "refine"])
def test_a_missing_server_of_the_policy_is_found_before_the_verifier_is_loaded(model, tmp_path, capsys, command):
    words = ["--policy", str(model), "--policy_backend", "server", "--policy_server_url", f"{NOBODY}/v1"]
    words += ["--model", str(model), "--backend", UNLOADABLE, "--output", str(tmp_path / "out.jsonl")]
    assert main([command, write(tmp_path / "in.jsonl", *PROBLEMS), *words]) == 2
    *_, error = capsys.readouterr().err.strip().splitlines()
    assert error.startswith(f"genprm {command}: error: ")
    assert "127.0.0.1:9" in error


@pytest.mark.parametrize("command", ["search", "refine"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "EMPTY"], "holds no tokenizer"),
        (["--policy_backend", "nosuch"], "unknown backend 'nosuch'"),
        (["--policy_device", "nosuch"], "the device nosuch cannot be used"),
        (["--policy_dtype", "nosuch"], "unknown dtype 'nosuch'"),
        (["--policy_chat_template_path", "BROKEN"], "template"),
    ],
)
def test_a_policy_that_cannot_be_loaded_is_found_before_the_verifier_is(
    model, tmp_path, capsys, command, words, message
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jinja").write_text("{% for %}")
    places = {"EMPTY": str(tmp_path / "empty"), "BROKEN": str(tmp_path / "broken.jinja")}
    words = ["--policy", str(model), *(places.get(word, word) for word in words)]
    words += ["--model", str(model), "--backend", UNLOADABLE, "--output", str(tmp_path / "out.jsonl")]
    assert main([command, write(tmp_path / "in.jsonl", *PROBLEMS), *words]) == 2
    *_, error = capsys.readouterr().err.strip().splitlines()
    assert error.startswith(f"genprm {command}: error: ")
    assert message in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mode", "nosuch"], "unknown mode 'nosuch'"),
        (["--dtype", "nosuch"], "unknown dtype 'nosuch'"),
        (["--top_p", "2"], "top_p must be above 0 and at most 1"),
        (["--max_step_tokens", "0"], "max_step_tokens must be at least 1"),
        (["--batch_size", "0"], "batch_size must be at least 1"),
        (["--max_chains", "0"], "max_chains must be at least 1"),
    ],
)
def test_a_value_that_can_never_work_is_no_changed_setting(model, tmp_path, capsys, words, message):
    output = tmp_path / "v.jsonl"
    source = write(tmp_path / "in.jsonl", *SOLUTIONS[:1])
    common = [
        "verify",
        source,
        "--model",
        str(model),
        "--backend",
        FAILING,
        "--mode",
        "direct",
        "--output",
        str(output),
    ]
    assert main(common) == 0
    capsys.readouterr()
    assert main([*common, *words]) == 2
    [error] = capsys.readouterr().err.strip().splitlines()
    assert message in error


def test_a_context_without_room_for_a_prompt_is_refused_before_a_model_is_loaded(model, tmp_path, capsys):
    words = [write(tmp_path / "in.jsonl", *SOLUTIONS), "--model", str(model), "--backend", UNLOADABLE]
    assert main(["verify", *words, "--max_context", "20", "--output", str(tmp_path / "v.jsonl")]) == 2
    assert "max_context 20 holds no prompt: the shortest has" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["verify", "select", "search", "refine"])
def test_a_server_is_tried_out_once(model, tmp_path, capsys, command):
    words = ["--model", str(model), "--backend", "server", "--mode", "direct", "--max_step_tokens", "8"]
    if command in ("search", "refine"):
        backend = "tests.helpers.critic_world:" + ("Walker" if command == "search" else "Policy")
        words += ["--policy", str(model), "--policy_backend", backend]
        rows = [{"problem": "Sum easy", "answer": "2"}]
    elif command == "select":
        rows = CANDIDATES
    else:
        rows = SOLUTIONS[:1]
    words = [command, write(tmp_path / "in.jsonl", *rows), *words, "--output", str(tmp_path / "out.jsonl")]
    engine = TransformersGenerator(judging_model(), tiny_tokenizer())
    with CompletionServer(engine, tokens="none", bare_ids=False) as server:
        assert main([*words, "--server_url", server.url]) == 0
    assert capsys.readouterr().err.count("reports no log-probabilities") == 1


def test_the_harness_tries_a_server_out_once(model, caplog):
    engine = TransformersGenerator(judging_model(), tiny_tokenizer())
    with CompletionServer(engine, tokens="none", bare_ids=False) as server:
        words = {"backend": "server", "server_url": server.url, "mode": "direct"}
        judge = Judge.of({"pretrained": str(model), **words})
        judge.wait_until_ready(1)
        for _ in range(2):
            with judge.open() as prm:
                assert prm.verify_all([Solution("a", "1+1?", ["1+1=2"])], progress=False)
            assert caplog.text.count("reports no log-probabilities") == 1
            caplog.clear()


def test_rewards_and_the_harness_ask_their_sandbox_first(model):
    with pytest.raises(ConfigError, match=r"the sandbox at http://127\.0\.0\.1:9 cannot be used"):
        GenPRMReward(model, backend=UNLOADABLE, sandbox=FusionSandbox(NOBODY))
    judge = Judge.of({"pretrained": str(model), "backend": UNLOADABLE, "sandbox": NOBODY})
    with pytest.raises(ConfigError, match="cannot be used"):
        judge.wait_until_ready(1)


def test_rewards_and_the_harness_take_the_options_of_the_sandbox(model):
    here = {"sandbox_require": "seccomp cgroup", "allow_weak_sandbox": True}
    required = ("separate_process", "limits", "seccomp", "cgroup")
    judge = Judge.of({"pretrained": str(model), "backend": BACKEND, **here})
    assert judge.options.required() == required
    reward = GenPRMReward(model, backend=BACKEND, mode="analysis", n=2, threshold=0.3, **here)
    assert reward.verifier.sandbox._required == required
    assert (reward.verifier.n, reward.verifier.threshold) == (2, 0.3)
    with pytest.raises(ConfigError, match="unknown protection nonsense"):
        GenPRMReward(model, backend=UNLOADABLE, sandbox_require=["nonsense"])
    with pytest.raises(ConfigError, match="a sandbox that is made takes no sandbox_require"):
        GenPRMReward(model, backend=UNLOADABLE, sandbox=FusionSandbox(NOBODY), **here)
    with pytest.raises(ConfigError, match=r"the sandbox at http://127\.0\.0\.1:9 cannot be used"):
        GenPRMReward(model, backend=UNLOADABLE, sandbox=NOBODY)


async def test_a_sandbox_that_runs_nothing_is_refused():
    with FusionServer().running() as server:
        await FusionSandbox(server.endpoint).check()
        server.reset("500", forever=True)
        with pytest.raises(ConfigError, match="cannot be used"):
            await FusionSandbox(server.endpoint).check()
        assert server.requests == 1


def judgement(status: str) -> StepJudgement:
    return StepJudgement("", 0.5 if status == "error" else 0.9, status)


def test_a_verdict_with_a_failure_is_in_no_count_of_right_and_wrong():
    whole = Verdict("a", [0.9], -1, [[judgement("ok")]], label=-1)
    half = Verdict("b", [0.7], -1, [[judgement("ok")], [judgement("error")]], label=-1)
    failed = Verdict("c", [0.5], -1, [[judgement("error")]], label=0)
    summary = summary_of([whole, half, failed])
    assert (summary.solutions, summary.failed, summary.labels, summary.predictions) == (3, 2, [-1], [-1])
    assert not summary.is_failure
    assert summary_of([failed]).is_failure
    assert summary_of([failed]).scores() is None
    assert not summary_of([]).is_failure


def test_failures_are_out_of_the_scores_of_verify_and_report(model, tmp_path, capsys):
    source, output = write(tmp_path / "in.jsonl", *SOLUTIONS), str(tmp_path / "v.jsonl")
    words = ["--model", str(model), "--backend", FAILING, "--output", output, "--mode", "direct", "--threshold", "0"]
    assert main(["verify", source, *words]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("format             processbench: ")
    assert "failed             2 of 3 solutions, left out of every score" in out
    assert "(1 labelled)" in out
    assert "in no score" in err
    assert len(list(iter_verdicts(output))) == 3
    assert main(["report", output, "--solutions", source]) == 0
    out = capsys.readouterr().out
    assert "right final answer: no step flagged in 1 of 1" in out
    assert "wrong final answer" not in out


def test_a_run_in_which_everything_failed_is_no_success(model, tmp_path, capsys):
    source, output = write(tmp_path / "in.jsonl", *SOLUTIONS[1:]), str(tmp_path / "v.jsonl")
    words = ["--model", str(model), "--backend", FAILING, "--mode", "direct"]
    assert main(["verify", source, *words, "--output", output]) == 2
    out, err = capsys.readouterr()
    assert "ProcessBench" not in out
    assert "all 2 judgements failed" in err.strip().splitlines()[-1]


def test_failures_are_out_of_the_scores_of_select(model, tmp_path, capsys):
    rows = [
        {"id": "p", "problem": "1+1?", "answer": "2", "candidates": ["#### 2", "#### 2"]},
        {"id": "q", "problem": "boom 1+1?", "answer": "2", "candidates": ["#### 2", "#### 2"]},
    ]
    source = write(tmp_path / "pool.jsonl", *rows)
    words = ["--model", str(model), "--backend", FAILING, "--mode", "direct"]
    assert main(["select", source, *words, "--output", str(tmp_path / "out.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "right              1 of 1 choices" in out
    assert "1 problems have a candidate that could not be judged" in out
    alone = write(tmp_path / "alone.jsonl", rows[1])
    assert main(["select", alone, *words, "--output", str(tmp_path / "other.jsonl")]) == 2
    assert "right  " not in capsys.readouterr().out


def test_pools_of_candidates_are_verified_and_chosen_from(model, tmp_path, capsys):
    """The two commands of the page on choosing, with the file that it shows."""
    row = {"id": "p1", "problem": "What is 2 * 3 + 1?", "answer": "7"}
    pool = write(tmp_path / "pool.jsonl", {**row, "candidates": ["2 * 3 = 6\n6 + 1 = 7\n#### 7", "#### 8"]})
    verdicts = str(tmp_path / "verdicts.jsonl")
    backend = ["--backend", "tests.helpers.judging_generator:Judging", "--mode", "direct"]
    assert main(["verify", pool, "--model", str(model), *backend, "--output", verdicts]) == 0
    assert {verdict.id for verdict in iter_verdicts(verdicts)} == {"p1-0", "p1-1"}
    chosen = str(tmp_path / "chosen.jsonl")
    assert main(["select", pool, "--verdicts", verdicts, "--rule", "weighted", "--output", chosen]) == 0
    assert "1 choices" in capsys.readouterr().out


def test_a_verifier_that_gives_no_verdict_ends_the_command_and_keeps_the_others(model, tmp_path, capsys, monkeypatch):
    verify = GenPRM.verify

    async def give_up(self: GenPRM, solution: Solution) -> Verdict:
        if solution.id == "a":  # the longest is judged first
            return await verify(self, solution)
        raise ItemFailed("not this time")

    monkeypatch.setattr(GenPRM, "verify", give_up)
    source, output = write(tmp_path / "in.jsonl", *SOLUTIONS[:2]), str(tmp_path / "v.jsonl")
    words = ["--model", str(model), "--backend", "tests.helpers.judging_generator:Judging", "--mode", "direct"]
    assert main(["verify", source, *words, "--output", output, "--max_items", "1"]) == 2
    assert "error: there is no verdict on 'b': not this time" in capsys.readouterr().err
    assert [verdict.id for verdict in iter_verdicts(output)] == ["a"]


@pytest.mark.parametrize(
    ("command", "more"),
    [("select", []), *((name, more) for name in ("search", "refine") for more in ([], ["--drop_failed"]))],
)
def test_a_run_in_which_every_judgement_failed_is_a_failure(model, tmp_path, capsys, command, more):
    words = ["--model", str(model), "--backend", FAILING, "--mode", "direct", "--output", str(tmp_path / "out.jsonl")]
    rows = [{"problem": "boom easy", "answer": "2", "candidates": ["#### 2", "#### 3"]}]
    if command != "select":
        backend = "tests.helpers.critic_world:" + ("Walker" if command == "search" else "Policy")
        words += ["--policy", str(model), "--policy_backend", backend]
        rows = [{"problem": "boom Sum easy", "answer": "2"}]
    assert main([command, write(tmp_path / "in.jsonl", *rows), *words, *more]) == 2
    *_, error = capsys.readouterr().err.strip().splitlines()
    assert error.startswith(f"genprm {command}: error: ")
