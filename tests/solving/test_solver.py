"""A policy whose chat template opens a thinking block: thoughts that were cut off are neither answers nor steps."""

from __future__ import annotations

import asyncio

import pytest

from genprm_trl.data.problems import Problem
from genprm_trl.generation.base import FinishReason, GenerationResult
from genprm_trl.labeling.rollout_tree import RolloutTree
from genprm_trl.labeling.rollouts import RolloutConfig, roll_out
from genprm_trl.solving.solver import Solver
from genprm_trl.stages.partial import Partial
from tests.helpers.coin_generator import CoinGenerator
from tests.helpers.tiny_models import CHATML_TEMPLATE

THINKING = CHATML_TEMPLATE.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
CUT = "maybe \\boxed{42}, but"


class Policy(CoinGenerator):
    def __init__(self, text: str, reason: FinishReason) -> None:
        super().__init__()
        self.result = GenerationResult(text, [0], finish_reason=reason, num_generated=3)

    async def generate(self, token_ids, params, *, affinity=None):  # type: ignore[no-untyped-def]
        return self.result


@pytest.mark.parametrize(
    ("text", "reason", "template", "right"),
    [
        (CUT, "length", THINKING, False),
        (CUT, "context", THINKING, False),
        (CUT, "length", None, True),
        ("The answer is 42", "stop", None, True),
        ("The answer is 42", "length", None, False),
        ("The answer is 42", "context", None, False),
        ("The answer is 42.\nStep 9: to", "length", None, True),
        ("maybe \\boxed{1}</think>It is \\boxed{42}.", "length", THINKING, True),
        ("maybe \\boxed{42}</think>It is \\boxed{1}.", "stop", THINKING, False),
    ],
)
def test_rollouts_of_a_prefix(text: str, reason: FinishReason, template: str | None, right: bool) -> None:
    tree = RolloutTree(Solver(Policy(text, reason), chat_template=template), "What is it?", "42", seed=0)
    asyncio.run(tree.sample(tree.state(""), 2))
    assert tree.state("").outcomes == [right, right]


def test_solutions_that_were_cut_off_in_their_thoughts_are_not_right() -> None:
    solver = Solver(Policy(CUT, "length"), chat_template=THINKING)
    config = RolloutConfig(first_round=2, max_samples=2, keep=2)
    outcome = asyncio.run(roll_out(solver, Problem("p", "What is it?", "42"), Partial(), config=config, source={}))
    assert (outcome.rows, outcome.counts["samples_right"]) == ([], 0)


def test_what_began_a_text_stays_in_it() -> None:
    solver = Solver(Policy(CUT, "length"), chat_template=THINKING)
    assert solver.text("Step 1:", CUT, "stop") == "Step 1:" + CUT
    assert solver.text("Step 1:", CUT, "length") == "<think>Step 1:" + CUT
