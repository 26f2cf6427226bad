"""The critic loop with a policy and a verifier that are programs, and `genprm refine` as a user runs it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from genprm_trl.cli.main import main
from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.conversation.template import ChatFormat
from genprm_trl.data.problems import Problem, read_problems
from genprm_trl.errors import ConfigError
from genprm_trl.protocol.genprm import GenPRMProtocol
from genprm_trl.records import StepJudgement, Verdict
from genprm_trl.solving.refinement import REFINEMENT_PROMPT, RefinementConfig, RefinementSummary, critique_of, refine
from genprm_trl.solving.solver import Solver, SolverSettings
from genprm_trl.stages.partial import Partial
from genprm_trl.stages.run import ItemFailed
from genprm_trl.verifier.genprm import GenPRM
from tests.helpers.critic_world import Critic, Policy
from tests.helpers.kills import die_at
from tests.helpers.scripted_generator import Reply

WORDS = ["--policy", "p", "--policy_backend", "tests.helpers.critic_world:Policy", "--mode", "analysis", "-q"]
WORDS += ["--model", "critic", "--backend", "tests.helpers.critic_world:Critic", "--policy_system_prompt", ""]


@pytest.fixture(autouse=True)
def _verifier_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of the verifier's name says what it was trained for, so that nobody asks the Hub."""
    monkeypatch.chdir(tmp_path)
    Path("critic").mkdir()
    ModelSettings(modes=("analysis",)).save(Path("critic"))


def verifier(critic: Critic | None = None) -> GenPRM:
    critic = critic or Critic()
    return GenPRM(critic, None, GenPRMProtocol("analysis"), chat=ChatFormat(critic.tokenizer), stop="first_error")


async def trajectory(
    kind: str,
    turns: int = 3,
    policy: Policy | None = None,
    begun: str = "Step 1:",
    critic: Critic | None = None,
    **options: Any,
) -> dict[str, Any]:
    solver = Solver(policy or Policy(), SolverSettings(system_prompt=""))
    problem = Problem(kind, f"Sum {kind}", "2")
    config, partial = RefinementConfig(turns, begun), Partial(**options)
    outcome = await refine((solver, verifier(critic)), problem, partial, config=config, source={"policy": "p"})
    [row] = outcome.rows
    return row


def test_the_request_is_the_published_one():
    assert REFINEMENT_PROMPT.format(step="1 + 1 = 3", critique="It is 2.") == (
        "There might be some problem in this paragraph of your reasoning, please rethink and refine your answer:\n"
        ">1 + 1 = 3\n"
        "\n"
        " It is 2."
    )


async def test_it_ends_when_no_step_is_judged_wrong():
    easy = await trajectory("easy")
    assert (easy["end"], len(easy["turns"])) == ("accepted", 1)
    [turn] = easy["turns"]
    assert turn["steps"] == ["Step 1: one and one is two, attempt 0", "Step 2: The answer is \\boxed{2}."]
    assert (turn["correct"], turn["final_answer"], turn["critique"]) == (True, "2", None)
    assert turn["verdict"]["prediction"] == -1
    slow = await trajectory("slow")
    assert (slow["end"], [turn["correct"] for turn in slow["turns"]]) == ("accepted", [False, False, True])


class Silent(Critic):
    """Gives no verdict."""

    def _judge(self, prompt: str) -> str:
        return "fine</analyze>\n" if prompt.endswith("step by step: ") else "hm</output>\n"


async def test_an_answer_without_verdicts_is_not_accepted():
    row = await trajectory("slow", critic=Silent())
    assert (row["end"], len(row["turns"])) == ("no_verdict", 1)
    assert row["turns"][0]["verdict"]["prediction"] == -1


async def test_the_policy_sees_its_answers_and_what_is_said_against_them():
    policy = Policy()
    row = await trajectory("slow", policy=policy)
    first, second, third = (prompt for prompt, _ in policy.calls)
    step = row["turns"][0]["steps"][0]
    critique = row["turns"][0]["critique"]
    assert critique == f"I doubt {step!r}"
    request = REFINEMENT_PROMPT.format(step=step, critique=critique)
    answered = first + row["turns"][0]["text"].removeprefix("Step 1:")
    assert second == (f"{answered}<|im_end|>\n<|im_start|>user\n{request}<|im_end|>\n<|im_start|>assistant\nStep 1:")
    assert third.startswith(second)
    assert third.count("There might be some problem") == 2


async def test_it_ends_when_the_turns_are_used_up_and_counts_what_that_broke():
    stuck = await trajectory("stuck", turns=2)
    assert (stuck["end"], len(stuck["turns"])) == ("turns", 3)
    assert stuck["turns"][-1]["verdict"] is None  # nobody would hear of it
    meek = await trajectory("meek", turns=2)
    assert [turn["correct"] for turn in meek["turns"]] == [True, False, False]
    rows = [stuck, meek, await trajectory("slow", turns=2), await trajectory("easy", turns=2)]
    summary = RefinementSummary()
    for row in rows:
        summary.add(row)
    zero, one, two = summary.by_turn()
    assert [scores.accuracy.value for scores in (zero, one, two)] == [50, 25, 50]
    assert [(s.fixed, s.broken, s.revised) for s in (zero, one, two)] == [(0, 0, 4), (0, 1, 3), (1, 1, 3)]
    assert (two.gain.value, one.gain.value) == (0, -25)
    assert (summary.objected_right, summary.objected_wrong) == ((1, 2), (2, 2))


@pytest.mark.parametrize(("text", "answer"), [("The answer is 2", None), ("It is \\boxed{2}. As", "2")])
async def test_an_answer_that_was_cut_off_is_none(text, answer):
    class Cut(Policy):
        def _answer(self, prompt: str) -> Reply:
            return Reply(f" good\nStep 2: {text}", ends=False)

    [turn] = (await trajectory("easy", policy=Cut()))["turns"]
    assert turn["finish_reason"] == "length"
    assert turn["text"] == f"Step 1: good\nStep 2: {text}"
    assert turn["steps"] == ["Step 1: good", f"Step 2: {text}"]
    assert (turn["final_answer"], turn["correct"]) == (answer, answer is not None)


async def test_what_cannot_go_on():
    assert (await trajectory("mute", begun=""))["end"] == "no_steps"
    full = await trajectory("stuck", turns=9, policy=Policy(max_context=300))
    assert full["end"] == "context"
    assert 1 <= len(full["turns"]) < 9
    with pytest.raises(ItemFailed, match="out of memory"):
        await trajectory("broken")
    with pytest.raises(ConfigError, match="turns must be at least 1"):
        RefinementConfig(0)


async def test_what_was_paid_for_is_not_asked_again():
    kept: list[dict[str, Any]] = []
    whole = await trajectory("slow", keep=kept.append)
    assert [(record["turn"], record["what"]) for record in kept] == [
        (turn, what) for turn in range(3) for what in ("answer", "verdict")
    ]
    for known in (kept[:1], kept[:3], kept):
        policy = Policy()
        again = await trajectory("slow", policy=policy, known=json.loads(json.dumps(known)))
        assert json.dumps(again) == json.dumps(whole)
        assert len(policy.calls) == 3 - sum(record["what"] == "answer" for record in known)


def test_the_critique_is_of_the_rationale_that_doubts_most():
    analysis = "<analyze>\nLet's analyze the Paragraph 1 step by step: {}</analyze>\n<output>\n**Judgement**: $\\boxed"
    code = "<verify>\nLet's use python code to find any potential error:\n```python\nprint(1)\n```\n"
    code += "[Code Output]\n\n```\n1\n```\n</verify>\n<output>\n**Judgement**: $\\boxed{No}$\n</output>\n"

    def of(*rationales: tuple[str, float]) -> str:
        return critique_of(Verdict("s", [0.2], 0, [[StepJudgement(text, p, "ok")] for text, p in rationales]))

    assert of((analysis.format("half sure"), 0.4), (analysis.format(" surely wrong"), 0.1)) == "surely wrong"
    assert of((code, 0.1)) == "```python\nprint(1)\n```\n[Code Output]\n\n```\n1\n```"
    assert of() == of(("", 0.5)) == ""
    assert of(("<output>\n**Judgement**: $\\boxed{No}$\n</output>\n", 0.1)) == ""


def problems(path: Path, kinds: list[str], answer: str | None = "2") -> Path:
    rows = [{"id": f"{n}-{kind}", "problem": f"Sum {kind} {n}", "answer": answer} for n, kind in enumerate(kinds)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("n", [1, 2])
def test_rationales_that_are_all_the_same_are_warned_of(tmp_path, capsys, n):
    """The verifier of this world writes one rationale on a step, whatever the seed."""
    data = problems(tmp_path / "p.jsonl", ["easy", "slow"])
    words = [*(word for word in WORDS if word != "-q"), "--n", str(n), "--output", str(tmp_path / "out.jsonl")]
    assert main(["refine", str(data), *words]) == 0
    assert capsys.readouterr().err.count("All rationales of each answer are the same") == (n == 2)


def test_the_command_reports_accuracy_by_turn(tmp_path, capsys):
    data = problems(tmp_path / "p.jsonl", ["easy", "slow", "stuck", "meek"])
    output = tmp_path / "out.jsonl"
    assert main(["refine", str(data), *WORDS, "--turns", "2", "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert "4 (1 accepted, 3 with all turns used up)" in out
    assert "| 2 | 50.0 |" in out
    assert "objected to 2 of 2 wrong first answers and to 1 of 2 right ones" in out
    assert [json.loads(line)["id"] for line in output.read_text().splitlines()] == [
        "0-easy", "1-slow", "2-stuck", "3-meek"
    ]  # fmt: skip
    numbers = json.loads((tmp_path / "out.jsonl.json").read_text())
    assert [scores["broken"] for scores in numbers["by_turn"]] == [0, 1, 1]
    before = output.read_bytes()
    assert main(["refine", str(data), *WORDS, "--turns", "2", "--output", str(output)]) == 0
    assert output.read_bytes() == before
    capsys.readouterr()
    assert main(["refine", str(data), *WORDS, "--turns", "3", "--output", str(output)]) == 2
    assert "turns was 2 and is now 3" in capsys.readouterr().err


def test_killed_anywhere_it_ends_with_the_same_output(tmp_path):
    data = problems(tmp_path / "p.jsonl", ["easy", "slow", "stuck", "meek"] * 3)
    words = ["refine", str(data), *WORDS, "--max_items", "3"]
    assert main([*words, "--output", str(tmp_path / "whole.jsonl")]) == 0
    output = tmp_path / "killed.jsonl"

    def run(die: int) -> int | None:
        def work() -> None:
            if die:
                die_at(die, torn=die % 2 == 0)
            os._exit(main([*words, "--output", str(output)]))

        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join()
        return child.exitcode

    assert [run(die) for die in (5, 6, 7)] == [-signal.SIGKILL] * 3
    assert not output.exists()
    assert run(0) == 0
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_what_is_left_of_a_problem_is_not_used_once_its_answer_is_corrected(tmp_path):
    def words(answer: str, output: str) -> list[str]:
        data = problems(tmp_path / "p.jsonl", ["slow"], answer)
        return ["refine", str(data), *WORDS, "--output", str(tmp_path / output)]

    def killed() -> None:
        die_at(1)
        main(words("5", "killed.jsonl"))

    child = multiprocessing.get_context("fork").Process(target=killed)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    partial = tmp_path / "killed.jsonl.stage" / "partial.jsonl"
    [record] = map(json.loads, partial.read_text().splitlines())
    record["record"]["num_tokens"] += 1000  # using it would show
    partial.write_text(json.dumps(record) + "\n")
    assert main(words("6", "killed.jsonl")) == 0
    assert main(words("6", "fresh.jsonl")) == 0
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "fresh.jsonl").read_bytes()


def test_problems_without_answers_are_refined_and_not_graded(tmp_path, capsys):
    data = problems(tmp_path / "p.jsonl", ["easy"], None)
    assert [problem.answer for problem in read_problems(str(data), need_answers=False)] == [""]
    assert main(["refine", str(data), *WORDS, "--output", str(tmp_path / "o.jsonl")]) == 0
    assert "turn |" not in capsys.readouterr().out
    assert json.loads((tmp_path / "o.jsonl").read_text())["turns"][0]["correct"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--turns", "0"], "turns must be at least 1"),
        (["--policy_temperature", "0"], "temperature 0"),
        (["--policy_backend", "server"], "server_url"),
        (["--mode", "thorough"], "unknown mode"),
        (["--limit", "0"], "limit must be at least 1"),
    ],
)
def test_unusable_options(tmp_path, capsys, words, message):
    data = problems(tmp_path / "p.jsonl", ["easy"])
    assert main(["refine", str(data), *WORDS, "--output", str(tmp_path / "o.jsonl"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "o.jsonl").exists()
