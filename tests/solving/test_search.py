"""Search over steps with a policy that flips coins and a verifier that sees how they fell."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import pytest

from genprm_trl.cli.main import main
from genprm_trl.conversation.settings import ModelSettings
from genprm_trl.conversation.template import ChatFormat
from genprm_trl.data.problems import Problem
from genprm_trl.data.steps import join_steps
from genprm_trl.errors import ConfigError
from genprm_trl.protocol.genprm import GenPRMProtocol
from genprm_trl.records import Solution, StepJudgement, Verdict
from genprm_trl.sandbox import LocalSandbox
from genprm_trl.solving.beam import beam_search
from genprm_trl.solving.particles import Annealing, particle_filter, resampling_weights
from genprm_trl.solving.paths import Grower, Path
from genprm_trl.solving.search import SearchConfig, search
from genprm_trl.solving.solver import Solver, SolverSettings
from genprm_trl.stages.partial import Partial
from genprm_trl.stages.run import ItemFailed
from genprm_trl.verifier.genprm import GenPRM
from tests.helpers.critic_world import Critic, Policy, Walker
from tests.helpers.scripted_generator import Reply, ScriptedGenerator


def make_grower(policy: Any = None, critic: Any = None, *, n: int = 1, **options: Any) -> Grower:
    critic = critic or Critic()
    verifier = GenPRM(critic, None, GenPRMProtocol("analysis"), chat=ChatFormat(critic.tokenizer), n=n)
    solver = Solver(policy or Walker(), SolverSettings(system_prompt=""))
    return Grower(solver, verifier, Problem("p", "Walk.", "2"), **options)


async def test_paths_grow_by_the_steps_that_the_policy_writes():
    grower = make_grower()
    [whole] = await grower.complete(1)
    [path] = await grower.start(1)
    assert path.steps == whole.steps[:1]  # the same seed, and the same text up to the next heading
    texts = [path.token_ids]
    while path.is_open:
        [path] = await grower.extend([path])
        assert path.token_ids[: len(texts[-1])] == texts[-1]
        texts.append(path.token_ids)
    assert (len(path.steps), path.end) == (4, "stop")
    decode = grower.policy._generator.tokenizer.decode
    assert decode(path.token_ids).endswith(join_steps(path.steps, "\n"))
    assert await grower.extend([path]) == [path]


async def test_each_step_is_judged_once_and_counted():
    critic = Critic()
    grower = make_grower(critic=critic, n=2)
    starts = await grower.start(3)
    await grower.extend([starts[0], starts[0], starts[1]])
    # Two requests, analysis and verdict, for each of two rationales of each of six steps.
    assert len(critic.calls) == 2 * 2 * 6
    names = [path.name for path in await grower.extend([starts[0], starts[0]])]
    assert names == ["0.0", "0.1"]
    tokens = 0
    for path in starts:
        assert path.verdict is not None
        tokens += sum(step.num_tokens for chain in path.verdict.chains for step in chain)
    assert 0 < tokens < grower.verifier_tokens
    assert grower.policy_tokens > 0
    assert [path.reward > 0.5 for path in starts] == ["BAD" not in path.steps[0] for path in starts]


async def test_a_verdict_goes_on_in_the_very_conversation(tmp_path):
    steps = ["one", "BAD two", "three"]
    critic = Critic()
    grower = make_grower(critic=critic)
    problem = grower.problem

    def solution(count: int) -> Solution:
        return Solution(f"s{count}", problem.text, steps[:count])

    whole = await grower.verifier.verify(solution(3))
    full = [prompt for prompt, _ in critic.calls]
    critic.calls.clear()
    verdict = None
    for count in (1, 2, 3):
        verdict = await grower.verifier.verify_further(solution(count), verdict)
    assert verdict is not None
    assert [prompt for prompt, _ in critic.calls] == full
    assert (verdict.rewards, verdict.prediction) == (whole.rewards, 1)
    assert verdict.chains == whole.chains
    with pytest.raises(ConfigError, match="not of 1 chains over its first steps"):
        await grower.verifier.verify_further(solution(2), verdict)
    with pytest.raises(ConfigError, match="not of 2 chains"):
        await grower.verifier.with_options(n=2).verify_further(solution(3), verdict)


async def test_names_that_earlier_code_defined_are_there():

    def write(prompt: str) -> str:
        if prompt.endswith("```python\n"):
            return "total = 41" + "\n```\n" if "second" not in prompt else "print(total + 1)\n```\n"
        return "</verify>\n<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n"

    model = ScriptedGenerator(write, alternatives={"Yes": -0.1, "No": -3.0})
    async with LocalSandbox() as sandbox:
        prm = GenPRM(model, sandbox, GenPRMProtocol("code_execution"), chat=ChatFormat(model.tokenizer))
        first = await prm.verify_further(Solution("a", "p", ["first"]))
        second = await prm.verify_further(Solution("b", "p", ["first", "second"]), first)
    judgement = second.chains[0][1]
    assert [code_round.output for code_round in judgement.code_rounds] == ["42"]
    assert "[Code Output]\n\n```\n42\n```\n" in judgement.rationale
    assert second.chains[0][0] == first.chains[0][0]


async def test_beam_search_keeps_the_best():
    grower = make_grower()
    kept = await beam_search(grower, 8, 4)
    assert len(kept) == 2
    assert all(path.end == "stop" for path in kept)
    # A whole solution is right one time in eight; among eight beginnings a step at a time there is always a good one.
    assert all("BAD" not in " ".join(path.steps) for path in kept)
    greedy = await beam_search(make_grower(), 1, 1)
    assert greedy[0].steps[0] == (await make_grower().complete(1))[0].steps[0]


async def test_a_beam_holds_solutions_of_different_length():
    def write(prompt: str) -> str | Reply:
        # The first path ends at once, the second goes on well, and both are better than the third.
        return write.texts.pop(0)  # type: ignore[attr-defined]

    write.texts = [" done \\boxed{2}", " good\nStep 2:", " BAD\nStep 2:", " good\nStep 3:", " BAD\\boxed{4}", " ok"]  # type: ignore[attr-defined]
    kept = await beam_search(make_grower(ScriptedGenerator(write)), 3, 2)
    assert [path.end for path in kept] == ["stop"]
    assert kept[0].steps == ["Step 1: done \\boxed{2}"]


def test_resampling_weights_are_tempered_odds():
    assert resampling_weights([0.5, 0.8, 0.2], 1.0) == pytest.approx(np.array([1, 4, 0.25]) / 5.25)
    assert resampling_weights([0.5, 0.8], 2.0) == pytest.approx(np.array([1, 2]) / 3)
    assert resampling_weights([1.0, 0.0], 1.0) == pytest.approx([1, 0])
    assert resampling_weights([0.0, 0.0], 1.0) == pytest.approx([0.5, 0.5])
    annealing = Annealing(3.0, 1.0, 3)
    assert [annealing.temperature(k) for k in range(4)] == [3.0, 2.0, 1.0, 1.0]
    assert Annealing(3.0, 1.0, 1).temperature(0) == 1.0
    for wrong in ({"start": 0}, {"end": -1}, {"steps": 0}):
        with pytest.raises(ConfigError):
            Annealing(**wrong)


class FixedPaths:
    """A grower of two steps whose rewards are given."""

    def __init__(self, rewards: list[float]):
        self.rewards = rewards
        self.extended: list[list[str]] = []

    async def start(self, n: int) -> list[Path]:
        return [self._path(str(k), reward, "open") for k, reward in zip(range(n), self.rewards, strict=True)]

    async def extend(self, paths: list[Path]) -> list[Path]:
        self.extended.append([path.name for path in paths])
        return [self._path(path.name, 0.5, "stop") for path in paths]

    def _path(self, name: str, reward: float, end: Any) -> Path:
        verdict = Verdict(name, [reward], -1, [[StepJudgement("", reward, "ok")]])
        return Path(name, [], ["s"], end, verdict)


async def test_particles_are_resampled_in_proportion():
    drawn: Counter[str] = Counter()
    generator = np.random.default_rng(0)
    for _ in range(400):
        grower = FixedPaths([0.5, 0.8])
        await particle_filter(grower, 2, Annealing(1.0, 1.0, 1), generator)  # type: ignore[arg-type]
        drawn.update(grower.extended[0])
    assert drawn["1"] / drawn.total() == pytest.approx(0.8, abs=0.04)


async def test_particles_follow_the_verifier_and_repeat_with_the_seed():
    async def run(seed: int) -> list[Path]:
        return await particle_filter(make_grower(), 12, Annealing(), np.random.default_rng(seed))

    first = await run(0)
    assert len(first) == 12
    right = sum("BAD" not in " ".join(path.steps) for path in first)
    assert right >= 9  # of whole solutions one in eight is right
    assert [path.steps for path in first] == [path.steps for path in await run(0)]
    assert [path.name for path in first] != [path.name for path in await run(1)]


async def test_paths_that_are_cut_off():
    short = make_grower(max_steps=2)
    [path] = await short.extend(await short.start(1))
    assert (path.end, len(path.steps)) == ("steps", 2)
    full = make_grower(Walker(max_context=40))
    paths = await beam_search(full, 2, 1)
    assert {path.end for path in paths} == {"context"}
    broken = make_grower(Policy())
    broken.problem = Problem("p", "Sum broken", "2")
    with pytest.raises(ItemFailed, match="out of memory"):
        await broken.start(2)


@pytest.mark.parametrize("method", ["beam", "particles", "best_of_n"])
@pytest.mark.parametrize(
    ("text", "max_steps", "right"),
    [
        (" The answer is 2", 40, False),
        (" It is \\boxed{2}. As", 40, True),
        (" The answer is 2.\nStep 2: As", 40, True),
        (" The answer is 2\nStep 2:", 1, True),  # the bound on steps cuts nothing within a step
        (" 1 + 1 = 2\nStep 2:", 1, False),
    ],
)
async def test_an_answer_that_was_cut_off_is_none(method, text, max_steps, right):
    if method == "best_of_n" and max_steps == 1:
        return
    begun = {"Step 1:": text, "Step 2:": " As"}
    policy = ScriptedGenerator(lambda prompt: Reply(begun[prompt[-7:]], ends=False))
    grower = make_grower(policy)
    config = SearchConfig(method, paths=2, width=1, max_steps=max_steps)
    outcome = await search((grower.policy, grower.verifier), grower.problem, Partial(), config=config, source={})
    [row] = outcome.rows
    assert {path["end"] for path in row["paths"]} == {"length" if max_steps > 1 else "steps"}
    assert row["correct"] is right
    assert row["final_answer"] == ("2" if right else None)


@pytest.mark.parametrize("method", ["beam", "particles", "best_of_n"])
async def test_a_row_says_what_was_chosen_and_what_it_cost(method):
    grower = make_grower()
    config = SearchConfig(method, paths=8, width=4)
    models = (grower.policy, grower.verifier)
    outcome = await search(models, grower.problem, Partial(), config=config, source={"policy": "p"})
    [row] = outcome.rows
    chosen = row["paths"][row["chosen"]]
    assert chosen["score"] == max(path["score"] for path in row["paths"])
    assert (row["steps"], row["correct"]) == (chosen["steps"], chosen["correct"])
    for path in row["paths"]:
        assert path["correct"] == ("BAD" not in " ".join(path["steps"]))
        assert len(path["rewards"]) == len(path["steps"])
    assert row["policy_tokens"] == outcome.counts["policy_tokens"] > 0
    if method != "best_of_n":
        assert row["correct"]
    again = await search(models, grower.problem, Partial(), config=config, source={"policy": "p"})
    assert again.rows == outcome.rows


WORDS = ["--policy", "p", "--policy_backend", "tests.helpers.critic_world:Walker", "--policy_system_prompt", ""]
WORDS += ["--model", "critic", "--backend", "tests.helpers.critic_world:Critic", "--mode", "analysis", "-q"]


@pytest.fixture
def problems(tmp_path, monkeypatch) -> FilePath:
    monkeypatch.chdir(tmp_path)
    FilePath("critic").mkdir()
    ModelSettings(modes=("analysis",)).save(FilePath("critic"))
    path = tmp_path / "p.jsonl"
    path.write_text("".join(f'{{"id": "{n}", "problem": "Walk {n}.", "answer": "2"}}\n' for n in range(4)))
    return path


def test_the_command(problems, tmp_path, capsys):
    words = ["search", str(problems), *WORDS, "--output"]
    assert main([*words, str(tmp_path / "beam.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "right              100.0 %" in out
    assert "by beam with 8 paths" in out
    rows = [json.loads(line) for line in (tmp_path / "beam.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["0", "1", "2", "3"]
    mean = sum(row["policy_tokens"] for row in rows) / 4
    assert f"tokens a problem   {mean:,.0f} by the policy" in out
    before = (tmp_path / "beam.jsonl").read_bytes()
    assert main([*words, str(tmp_path / "beam.jsonl")]) == 0
    assert (tmp_path / "beam.jsonl").read_bytes() == before
    capsys.readouterr()
    assert main([*words, str(tmp_path / "beam.jsonl"), "--method", "particles"]) == 2
    assert "method was 'beam' and is now 'particles'" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["beam", "particles", "best_of_n"])
@pytest.mark.parametrize(("policy", "n"), [("Walker", 1), ("Parrot", 1), ("Walker", 2)])
def test_samples_that_are_all_the_same_are_warned_of(problems, tmp_path, capsys, method, policy, n):
    words = [word.replace("Walker", policy) for word in WORDS if word != "-q"]
    words += ["--method", method, "--n", str(n), "--paths", "4", "--width", "2", "--output"]
    assert main(["search", str(problems), *words, str(tmp_path / "o.jsonl")]) == 0
    shown = capsys.readouterr().err
    samples = "solutions of each problem" if method == "best_of_n" else "next steps of each path"
    assert shown.count(f"All {samples} are the same") == (policy == "Parrot")
    assert shown.count("All rationales of each path are the same") == (n == 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--paths", "2", "--width", "3"], "width of a beam must be from 1 to paths = 2"),
        (["--paths", "0"], "paths must be at least 1"),
        (["--max_steps", "0"], "max_steps must be at least 1"),
        (["--resample_start", "0"], "temperatures of resampling must be positive"),
        (["--anneal_steps", "0"], "annealed over at least 1 step"),
        (["--stop", "first_error"], "leave out --stop"),
        (["--adaptive", "exact"], "leave out --adaptive"),
        (["--method", "random"], "invalid choice: 'random'"),
    ],
)
def test_unusable_options(problems, tmp_path, capsys, words, message):
    assert main(["search", str(problems), *WORDS, "--output", str(tmp_path / "o.jsonl"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "o.jsonl").exists()
