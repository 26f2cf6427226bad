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


def test_rollouts_of_a_prefix_that_are_cut_off_are_no_thoughts() -> None:
    """The prefix stands behind the block, and so does what goes on from it."""
    tree = RolloutTree(Solver(Policy(CUT, "length"), chat_template=THINKING), "What is it?", "42", seed=0)
    asyncio.run(tree.sample(tree.state("Step 1: It is \\boxed{1}."), 2))
    assert tree.state("Step 1: It is \\boxed{1}.").outcomes == [True, True]


@pytest.mark.parametrize(
    ("opened", "closed"),
    [
        ("<think>\n", "\n</think>\n\n"),
        ("[THINK]", "\n[/THINK]\n\n"),
        ("<|START_THINKING|>", "\n<|END_THINKING|>\n\n"),
        ("", ""),
    ],
)
def test_a_forced_step_stands_behind_the_thinking_block(opened: str, closed: str) -> None:
    template = CHATML_TEMPLATE.replace("assistant\n' }}{% endif %}", f"assistant\n{opened}' }}}}{{% endif %}}")
    policy = Policy(CUT, "stop")
    solver = Solver(policy, chat_template=template)

    def prompt(begun: str) -> str:
        decoded: str = policy.tokenizer.decode(solver.prompt("What is it?", begun))
        return decoded

    assert prompt("Step 1:").endswith(f"<|im_start|>assistant\n{opened}{closed}Step 1:")
    # A model that writes a whole solution thinks as it was trained to.
    assert prompt("").endswith(f"<|im_start|>assistant\n{opened}")


def test_solutions_that_were_cut_off_are_unfinished() -> None:
    solver = Solver(Policy(CUT, "length"), chat_template=THINKING)
    config = RolloutConfig(first_round=2, max_samples=2, keep=2)
    outcome = asyncio.run(roll_out(solver, Problem("p", "What is it?", "42"), Partial(), config=config, source={}))
    assert outcome.rows == []
    assert outcome.dropped["solutions_unfinished"] == 2


def test_what_began_a_text_stays_in_it() -> None:
    solver = Solver(Policy(CUT, "length"), chat_template=THINKING)
    assert solver.text("Step 1:", CUT, "stop") == "Step 1:" + CUT
    assert solver.text("Step 1:", CUT, "length") == "Step 1:" + CUT
    assert solver.text("", CUT, "length") == "<think>" + CUT
