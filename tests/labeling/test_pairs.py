"""Pairs of steps: by hand-worked samples, from the input, with a verifier, resumed, and what the command says."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genprm_trl.cli.main import main
from genprm_trl.data.problems import read_groups
from genprm_trl.data.step_pairs import load_step_pairs
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.generation.base import Generator
from genprm_trl.labeling.pairs import LabelledGroup, PairConfig, check_label, make_pairs
from genprm_trl.records import Solution, StepJudgement, Verdict
from genprm_trl.rows.jsonl import iter_written_rows, write_jsonl
from genprm_trl.solving.solver import Solver
from genprm_trl.stages.file import Outcome
from genprm_trl.stages.partial import Partial
from genprm_trl.stages.run import ItemFailed
from genprm_trl.verifier.base import Verifier
from tests.helpers.judging_generator import BACKEND as JUDGING
from tests.helpers.scripted_generator import Reply, ScriptedGenerator
from tests.helpers.tiny_models import save_tiny

PROBLEM = "What is (3 + 4) * 2?"
WRONG = Solution(
    "w", PROBLEM, ["Step 1: 3+4=7", "Step 2: 7*2=15", "Step 3: 15"], answer="14", final_answer_correct=False, label=1,
    extra={"separator": "\n"},
)  # fmt: skip
RIGHT = Solution(
    "r", PROBLEM, ["Step 1: 3+4=7", "Step 2: 2*7=14.", "Step 3: $\\boxed{14}$"], answer="14",
    final_answer_correct=True, label=-1, extra={"separator": "\n"},
)  # fmt: skip


class InTurn(ScriptedGenerator):
    """Answers with some texts in turn, over and over."""

    def __init__(self, *texts: str | Reply):
        self.texts, self.number = texts, -1
        super().__init__(self._next)

    def _next(self, prompt: str) -> str | Reply:
        self.number += 1
        return self.texts[self.number % len(self.texts)]


class Judge(Verifier):
    """Finds the steps wrong that hold a word."""

    def __init__(self, word: str, *, stop: str = "never", status: Any = "ok"):
        self.word, self.stop, self.status, self.judged = word, stop, status, []

    async def verify(self, solution: Solution) -> Verdict:
        self.judged.append(solution.steps)
        rewards = [0.1 if self.word in step else 0.9 for step in solution.steps]
        prediction = next((place for place, reward in enumerate(rewards) if reward < 0.5), -1)
        if self.stop == "first_error" and prediction >= 0:
            rewards = rewards[: prediction + 1]
        chain = [StepJudgement("", reward, self.status) for reward in rewards]
        return Verdict(solution.id, rewards, prediction, [chain])


def pair(
    *solutions: Solution, policy: Generator | None = None, verifier: Verifier | None = None, **config: Any
) -> Outcome:
    makers = (None if policy is None else Solver(policy), verifier)
    made = make_pairs(makers, LabelledGroup(solutions), Partial(), config=PairConfig(**config), source={"policy": "p"})
    return asyncio.run(made)


END = "\nStep 3: $\\boxed{14}$"


def test_a_pair_by_hand() -> None:
    """A right step, a wrong answer, the same step with other spaces, and the wrong step with a right answer."""
    policy = InTurn(f" 7*2=14{END}", " 7*2=13\nStep 3: $\\boxed{13}$", f"  7*2=14 {END}", f" 7*2=15{END}")
    outcome = pair(WRONG, policy=policy, samples=4)
    [row] = outcome.rows
    assert row == {
        "id": "w", "problem": PROBLEM, "prefix": "Step 1: 3+4=7\nStep 2:", "chosen": " 7*2=14",
        "rejected": " 7*2=15", "answer": "14", "source": {"policy": "p", "found": "sampled"},
    }  # fmt: skip
    assert outcome.dropped == {"same_step": 2}
    counts = outcome.counts
    assert (counts["samples"], counts["samples_right"], counts["pairs_sampled"]) == (4, 3, 1)
    assert {prompt.rpartition("assistant\n")[2] for prompt, _ in policy.calls} == {row["prefix"]}
    assert len({params.seed for _, params in policy.calls}) == 4


def test_sampling_ends_when_a_right_step_is_found() -> None:
    texts = [" 7*2=13\nStep 3: $\\boxed{13}$"] * 5 + [f" 7*2=14{END}"] + [" 1\nStep 3: $\\boxed{1}$"] * 30
    assert pair(WRONG, policy=InTurn(*texts)).counts["samples"] == 8
    outcome = pair(WRONG, policy=InTurn(*texts), samples=5)
    assert (outcome.rows, outcome.counts["samples"], outcome.dropped) == ([], 5, {"no_right_step": 1})


def test_a_right_step_of_the_input_costs_no_sample() -> None:
    policy = InTurn("nothing")
    outcome = pair(WRONG, RIGHT, policy=policy)
    [row] = outcome.rows
    assert (row["chosen"], row["source"]["found"]) == (" 2*7=14.", "input")
    assert policy.calls == []
    assert outcome.counts["pairs_input"] == 1
    assert pair(WRONG).dropped == {"no_right_step": 1}


@pytest.mark.parametrize(
    "other",
    [
        replace(RIGHT, final_answer_correct=False),
        replace(RIGHT, label=2),
        replace(RIGHT, steps=["Step 1: 4+3=7", *RIGHT.steps[1:]]),
        replace(RIGHT, steps=RIGHT.steps[:1]),
        replace(RIGHT, steps=["Step 1: 3+4=7", "So 14."]),
        replace(RIGHT, steps=["Step 1: 3+4=7", "Step 2: 7*2=15", "Step 3: $\\boxed{14}$"]),
    ],
    ids=["wrong answer", "wrong step", "another prefix", "at its end", "no heading", "the same step"],
)
def test_other_solutions_of_the_input_are_no_help(other: Solution) -> None:
    assert pair(WRONG, other).rows == []


def test_a_wrong_step_makes_one_pair() -> None:
    again = replace(WRONG, id="again", steps=["Step 1: 3+4=7", "**Step 2:**  7*2=15", "Step 3: 16"])
    outcome = pair(WRONG, again, RIGHT)
    assert [row["id"] for row in outcome.rows] == ["w"]
    assert outcome.dropped == {"same_pair": 1}
    assert (outcome.counts["solutions"], outcome.counts["solutions_with_an_error"]) == (3, 2)


def test_the_first_step_and_steps_without_headings() -> None:
    paragraphs = Solution("p", PROBLEM, ["3+4=8", "So 16."], answer="14", label=0)
    policy = InTurn("3+4=7\n(a sum)\n\n7*2=14, so $\\boxed{14}$.")
    [row] = pair(paragraphs, policy=policy).rows
    assert (row["prefix"], row["chosen"], row["rejected"]) == ("", "3+4=7\n(a sum)", "3+4=8")
    lines = replace(paragraphs, steps=["3+4=7", "7*2=15"], label=1, extra={"separator": "\n"})
    [row] = pair(lines, policy=InTurn("7*2=14\nSo $\\boxed{14}$.")).rows
    assert (row["prefix"], row["chosen"], row["rejected"]) == ("3+4=7\n", "7*2=14", "7*2=15")
    first = replace(WRONG, steps=["Step 1: 3+4=8", "Step 2: 16"], label=0)
    [row] = pair(first, policy=InTurn(f" 3+4=7\nStep 2: 14{END}")).rows
    assert (row["prefix"], row["chosen"], row["rejected"]) == ("Step 1:", " 3+4=7", " 3+4=8")


@pytest.mark.parametrize(
    "text", ["", "   ", "\n\n", "<think>\\boxed{14}", "Step 3: $\\boxed{14}$", "\ud7ff\\boxed{14}"]
)
def test_what_a_policy_writes_never_raises(text: str) -> None:
    outcome = pair(WRONG, policy=InTurn(text), samples=2)
    assert len(outcome.rows) + outcome.dropped.get("no_right_step", 0) == 1
    assert pair(WRONG, policy=InTurn(Reply(text, ends=False)), samples=2)


def test_an_answer_in_the_prefix_does_not_answer_for_a_sample() -> None:
    said = replace(WRONG, steps=["Step 1: $\\boxed{14}$", *WRONG.steps[1:]])
    assert pair(said, policy=InTurn(" I do not know."), samples=4).rows == []


def test_without_an_answer_nothing_is_sampled() -> None:
    policy = InTurn("nothing")
    assert pair(replace(WRONG, answer=None), policy=policy).dropped == {"no_answer": 1}
    assert policy.calls == []
    assert len(pair(replace(WRONG, answer=None), replace(RIGHT, answer=None), policy=policy).rows) == 1


@pytest.mark.parametrize("stop", ["never", "first_error"])
def test_a_verifier_refuses_steps(stop: str) -> None:
    """The one of the input and the first sample, but not the second one."""
    policy = InTurn(f" two sevens are 14{END}", f" 14=7*2{END}")
    judge = Judge("two", stop=stop)
    outcome = pair(WRONG, replace(RIGHT, steps=["Step 1: 3+4=7", "Step 2: two", "Step 3: 14"]), policy=policy,
                   verifier=judge)  # fmt: skip
    assert [row["chosen"] for row in outcome.rows] == [" 14=7*2"]
    assert outcome.dropped == {"step_judged_wrong": 2, "same_step": 2}
    assert judge.judged[-1] == ["Step 1: 3+4=7", "Step 2: 14=7*2"]
    # A verifier that ends at a wrong prefix says nothing good of what follows.
    if stop == "first_error":
        assert pair(WRONG, RIGHT, verifier=Judge("3+4", stop=stop)).dropped == {"step_judged_wrong": 1,
                                                                               "no_right_step": 1}  # fmt: skip


def test_a_verdict_that_is_none_takes_no_step() -> None:
    assert pair(WRONG, RIGHT, verifier=Judge("nothing", status="no_verdict")).rows == []
    with pytest.raises(ItemFailed, match="the verifier failed on a step for 'w'"):
        pair(WRONG, RIGHT, verifier=Judge("nothing", status="error"))


def test_a_failed_request_fails_the_problem() -> None:
    with pytest.raises(ItemFailed, match="away"):
        pair(WRONG, policy=InTurn(Reply("", error="away")))


def test_a_label_is_part_of_the_work() -> None:
    assert LabelledGroup((WRONG,)).digest != LabelledGroup((replace(WRONG, label=0),)).digest
    rows = [WRONG.to_dict(), {**RIGHT.to_dict(), "label": None}]
    reading = {"check_row": check_label, "group": LabelledGroup}
    with pytest.raises(DataError, match="row 2, field 'label': solution 'r' has no label"):
        list(read_groups(rows, **reading))
    [group] = read_groups(rows[:1], **reading)
    assert isinstance(group, LabelledGroup)


def test_sizes_are_checked() -> None:
    with pytest.raises(ConfigError, match="samples must be at least 1"):
        PairConfig(samples=0)


# --- The command ----------------------------------------------------------------------------------------------------

BACKEND = "tests.helpers.scripted_policy:Adding"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    lonely = replace(WRONG, id="lonely", problem="What is 3 + 4?", steps=["Step 1: 3+4=8"], label=0, answer="7")
    write_jsonl(tmp_path / "labels.jsonl", [each.to_dict() for each in (WRONG, RIGHT, lonely)])
    return tmp_path / "labels.jsonl"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


def test_pairs_of_the_input_need_no_model(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "pairs.jsonl"
    assert main(["pairs", str(labels), "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    for said in (
        "3, of which 2 have a wrong step",
        "1: 1 right steps of the input, 0 sampled",
        "1 without a right step",
    ):
        assert said in shown
    [made] = load_step_pairs(output)
    assert (made.chosen, made.source["found"]) == (" 2*7=14.", "input")
    assert main(["pairs", str(labels), "--output", str(output), "--seed", "1"]) == 2
    assert "seed was 0 and is now 1" in capsys.readouterr().err


def test_pairs_are_sampled_and_resumed(
    labels: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "pairs.jsonl"
    words = ["pairs", str(labels), "--model", str(model), "--backend", BACKEND, "--output", str(output)]
    assert main(words) == 0
    assert "2: 1 right steps of the input, 1 sampled" in capsys.readouterr().out
    rows = [row for _, row in iter_written_rows(output)]
    assert [(row["id"], row["chosen"], row["source"]["found"]) for row in rows] == [
        ("w", " 2*7=14.", "input"), ("lonely", " 3+4=7", "sampled")
    ]  # fmt: skip
    assert main(words) == 0
    assert [row for _, row in iter_written_rows(output)] == rows
    # What is missing is made again, and nothing else.
    journal = Path(f"{output}.stage") / "journal.jsonl"
    journal.write_text("".join(journal.read_text(encoding="utf-8").splitlines(keepends=True)[:1]), encoding="utf-8")
    output.unlink()
    assert main(words) == 0
    assert [row for _, row in iter_written_rows(output)] == rows
    capsys.readouterr()
    for changed in (["--temperature", "0.3"], ["--samples", "2"], ["--verifier", str(model)]):
        assert main([*words, *changed]) == 2
        error = capsys.readouterr().err
        assert "was" in error
        assert "Traceback" not in error


@pytest.mark.parametrize(("threshold", "code", "said"), [("0", 0, "1 right steps of the input"), ("1", 2, "")])
def test_a_verifier_judges_the_steps(
    labels: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], threshold: str, code: int, said: str
) -> None:
    words = [
        "pairs",
        str(labels),
        "--verifier",
        str(model),
        "--verifier_backend",
        JUDGING,
        "--verifier_mode",
        "direct",
    ]
    words += ["--verifier_threshold", threshold, "--output", str(tmp_path / "pairs.jsonl")]
    assert main(words) == code
    shown = capsys.readouterr()
    assert said in shown.out
    assert ("right steps left out 1 judged wrong" in " ".join(shown.out.split())) == bool(code)
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("rows", "words", "message"),
    [
        ([{**RIGHT.to_dict(), "label": None}], [], "row 1, field 'label': solution 'r' has no label"),
        ([WRONG.to_dict()], [], "name the policy with --model; "),
        ([WRONG.to_dict()], ["--samples", "0"], "samples must be at least 1"),
        ([WRONG.to_dict()], ["--model", "nowhere"], "nowhere"),
        ([WRONG.to_dict()], ["--verifier", "nowhere"], "nowhere"),
        ([{**WRONG.to_dict(), "label": 9}], [], "field 'label'"),
        ([WRONG.to_dict()], ["--temperature", "0.9"], "--temperature needs --model"),
        ([WRONG.to_dict()], ["--backend", "vllm"], "--backend needs --model"),
        ([WRONG.to_dict()], ["--verifier_threshold", "0.9"], "--verifier_threshold needs --verifier"),
    ],
)
@pytest.mark.usefixtures("offline")
def test_bad_input_is_one_line(tmp_path: Path, capsys: Any, rows: Any, words: list[str], message: str) -> None:
    write_jsonl(tmp_path / "in.jsonl", rows)
    assert main(["pairs", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl"), *words]) == 2
    *_, error = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("genprm pairs: error: ")
    assert message in error


NOBODY = "http://127.0.0.1:9"
UNLOADABLE = "tests.helpers.judging_generator:Unloadable"


@pytest.mark.parametrize(
    "words",
    [
        ["--backend", UNLOADABLE, "--verifier_backend", UNLOADABLE, "--verifier_sandbox", NOBODY],
        ["--backend", UNLOADABLE, "--verifier_backend", "server", "--verifier_server_url", f"{NOBODY}/v1"],
        ["--backend", "server", "--server_url", f"{NOBODY}/v1", "--verifier_backend", UNLOADABLE],
    ],
    ids=["sandbox", "verifier", "policy"],
)
def test_a_missing_server_is_found_before_a_model_is_loaded(
    labels: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    line = ["pairs", str(labels), "--model", str(model), "--verifier", str(model), *words]
    assert main([*line, "--output", str(tmp_path / "pairs.jsonl")]) == 2
    *_, error = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("genprm pairs: error: ")
    assert "127.0.0.1:9" in error
