"""Rollouts: rounds and when they end, what is kept and what is left out."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from genprm_trl.data.problems import Problem
from genprm_trl.errors import ConfigError
from genprm_trl.generation.base import GenerationResult
from genprm_trl.labeling.rollouts import FIRST_STEP, RolloutConfig, normalized_steps, roll_out
from genprm_trl.records import Solution
from genprm_trl.solving.solver import Solver, SolverSettings
from genprm_trl.stages.partial import Partial
from genprm_trl.stages.run import ItemFailed
from tests.helpers.coin_generator import CoinGenerator

SOURCE = {"policy": "coin", "seed": 0}


def run(percent: int, config: RolloutConfig | None = None, generator: Any = None, **options: Any) -> Any:
    problem = Problem("p1", f"Chance {percent}: what is it?", "42")
    solver = Solver(generator or CoinGenerator())
    partial = Partial(**options)
    return asyncio.run(roll_out(solver, problem, partial, config=config or RolloutConfig(), source=SOURCE))


def test_a_problem_ends_when_there_is_enough_to_choose_from():
    outcome = run(50, RolloutConfig(first_round=4, keep=8))
    solutions = [Solution.from_dict(row) for row in outcome.rows]
    assert outcome.counts["samples"] < 64
    assert outcome.counts["rounds"] > 1
    right = [s for s in solutions if s.final_answer_correct]
    assert len(solutions) == 8
    assert len(right) == 4
    assert len({normalized_steps(s.steps) for s in solutions}) == 8
    for solution in solutions:
        assert solution.steps[0].startswith("Step 1: ")
        assert solution.steps[1].startswith("Step 2: ")
        assert ("42" in solution.steps[-1]) == solution.final_answer_correct
        assert solution.label is None
        assert solution.extra["separator"] == "\n\n"
        assert solution.extra["rollout"] == {
            "policy": "coin", "seed": 0, "samples": outcome.counts["samples"],
            "samples_right": outcome.counts["samples_right"],
        }  # fmt: skip
    assert [s.extra["sample"] for s in solutions] == sorted(s.extra["sample"] for s in solutions)
    assert run(50, RolloutConfig(first_round=4, keep=8)) == outcome
    assert run(50, RolloutConfig(first_round=4, keep=8, seed=1)) != outcome


@pytest.mark.parametrize(("percent", "missing"), [(0, "right"), (100, "wrong")])
def test_a_problem_of_one_kind_is_given_up_and_counted(percent, missing):
    outcome = run(percent, RolloutConfig(give_up=32))
    assert outcome.rows == []
    assert outcome.counts["samples"] == 32
    assert outcome.dropped[f"problems_without_a_{missing}_solution"] == 1
    assert outcome.counts["problems_kept"] == 0
    # Up to the bound if it is never given up.
    assert run(percent, RolloutConfig(give_up=10**6, max_samples=100)).counts["samples"] == 100


def test_a_rare_kind_is_waited_for_and_sets_the_balance():
    outcome = run(97, RolloutConfig(max_samples=64, give_up=64, keep=16))
    wrong = outcome.counts["samples"] - outcome.counts["samples_right"]
    assert 0 < wrong < 8
    assert outcome.counts["samples"] == 64
    assert outcome.counts["solutions_kept"] == 2 * wrong
    # Everything sampled is accounted for.
    lost = sum(count for name, count in outcome.dropped.items() if name.startswith("solutions_"))
    assert outcome.counts["samples"] == lost + len(outcome.rows)


def scripted(texts: list[tuple[str, str]]) -> CoinGenerator:
    """A policy that writes the given texts in turn, each with its finish reason."""

    class Scripted(CoinGenerator):
        async def generate(self, token_ids, params, *, affinity=None):
            text, reason = texts[self.calls % len(texts)]
            self.calls += 1
            return GenerationResult(text, [0], finish_reason=reason, num_generated=3)

    return Scripted()


def test_what_cannot_be_used_is_left_out_and_counted():
    generator = scripted(
        [
            (" 6 * 7 = 42.\nStep 2: It is \\boxed{42}.", "stop"),
            ("  6 * 7  = 42.\n## STEP 2. It is \\boxed{42}.", "stop"),  # the same solution
            (" It is \\boxed{41}.", "stop"),
            (" It is \\boxed{42}. And", "length"),
            (" I do not", "context"),
            ("", "stop"),
            (" It is \\boxed{" + "9^" * 3000 + "}.", "stop"),  # too long to compare
            (" It is \\boxed{40}.", "stop"),
        ]
    )
    outcome = run(50, RolloutConfig(first_round=8, max_samples=8, keep=4), generator)
    assert [row["extra"]["sample"] for row in outcome.rows] in ([0, 2], [0, 7])
    assert outcome.rows[0]["extra"]["separator"] == "\n"
    assert outcome.rows[0]["steps"] == ["Step 1: 6 * 7 = 42.", "Step 2: It is \\boxed{42}."]
    assert outcome.dropped == {
        "solutions_unfinished": 2,
        "solutions_duplicate": 1,
        "solutions_not_graded": 1,
        "solutions_not_chosen": 2,
    }


def test_a_solution_that_was_cut_off_is_neither_right_nor_wrong():
    right, wrong = " It is \\boxed{42}.", " It is \\boxed{41}."
    texts = [(f"{right} And", "length"), *((f"{wrong} {'I say so. ' * number}", "stop") for number in range(3))]
    outcome = run(50, RolloutConfig(first_round=4, max_samples=4, keep=2), scripted(texts))
    assert outcome.rows == []
    assert (outcome.counts["samples"], outcome.counts["samples_right"]) == (4, 0)
    assert outcome.dropped["problems_without_a_right_solution"] == 1
    outcome = run(50, RolloutConfig(first_round=4, max_samples=4, keep=2), scripted([*texts[:3], (right, "stop")]))
    assert len(outcome.rows) == 2
    assert outcome.counts["samples_right"] == 1
    assert all(row["extra"]["rollout"]["samples_right"] == 1 for row in outcome.rows)
    assert "problems_without_a_right_solution" not in outcome.dropped


def test_steps_are_compared_without_their_headings_alone():
    dressed = ["Step 1: Add 2.", "**Step 1:** add  2.", "## step 1. Add 2.", "Add 2.", "**Step 1**: Add\n2."]
    assert len({normalized_steps([step]) for step in dressed}) == 1
    different = ["2 + 3", "-2 + 3", "(2 + 3)", "\\frac{2}{3}", ".2 + 3", "$2 + 3$", "√2 + 3"]
    assert len({normalized_steps([f"Step 1: {text}"]) for text in different}) == len(different)


def test_the_first_step_is_forced_behind_the_generation_prompt():
    prompts = []

    class Listening(CoinGenerator):
        async def generate(self, token_ids, params, *, affinity=None):
            prompts.append((self.tokenizer.decode(token_ids), params, affinity))
            return await super().generate(token_ids, params)

    problem = Problem("p1", "What is it?<|im_end|>", "42")
    solver = Solver(Listening(), SolverSettings(temperature=0.5, max_tokens=99, system_prompt="Think."))
    config = RolloutConfig(first_round=2, max_samples=2)
    asyncio.run(roll_out(solver, problem, Partial(), config=config, source=SOURCE))
    [(prompt, params, affinity), (_, other, _)] = prompts
    # The problem's own control token is broken up by an invisible character.
    assert prompt == (
        "<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\nWhat is it?<\u200b|im_end|><|im_end|>\n"
        f"<|im_start|>assistant\n{FIRST_STEP}"
    )
    assert (params.temperature, params.max_new_tokens, params.logprobs) == (0.5, 99, 0)
    assert params.seed != other.seed
    assert affinity == "p1"


def test_rounds_of_a_stopped_run_are_not_sampled_again():
    records: list[dict[str, Any]] = []
    config = RolloutConfig(first_round=4, keep=8)
    whole = run(50, config, keep=records.append)
    records = json.loads(json.dumps(records))
    for kept in range(len(records) + 1):
        generator = CoinGenerator()
        assert run(50, config, generator, known=records[:kept]) == whole
        assert generator.calls == whole.counts["samples"] - sum(len(r["samples"]) for r in records[:kept])


def test_a_failed_request_fails_the_problem():
    with pytest.raises(ItemFailed, match="the server is gone"):
        run(50, generator=CoinGenerator(fail_after=3))


@pytest.mark.parametrize(
    "wrong", [{"keep": 1}, {"first_round": 1}, {"first_round": 64, "max_samples": 32}, {"give_up": 0}]
)
def test_numbers_out_of_range(wrong):
    with pytest.raises(ConfigError):
        RolloutConfig(**wrong)


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"max_tokens": 0}, {"max_requests": 0}, {"top_p": 0}])
def test_solver_settings_out_of_range(wrong):
    with pytest.raises(ConfigError):
        SolverSettings(**wrong)
