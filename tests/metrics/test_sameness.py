"""Samples that should differ and do not: noticed wherever several are drawn."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from genprm_trl.cli.main import main
from genprm_trl.data.problems import Problem
from genprm_trl.generation.base import GenerationResult
from genprm_trl.labeling.rollout_tree import RolloutTree
from genprm_trl.labeling.rollouts import RolloutConfig, roll_out
from genprm_trl.metrics.sameness import Sameness
from genprm_trl.records import Solution, StepJudgement, StepStatus, Verdict
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.solving.solver import Solver
from genprm_trl.stages.partial import Partial
from tests.helpers.coin_generator import CoinGenerator
from tests.helpers.verdict_examples import make_page, read_page

WARNING = "are the same, so several of them say no more than one"
SOLUTION = Solution("a", "What is 2 + 2?", ["2 + 2 = 4"])


def verdict(*texts: str, status: StepStatus = "ok", id: str = "a", tokens: int = 30) -> Verdict:
    chains = [[StepJudgement(text, 0.9, status, num_tokens=tokens)] for text in texts]
    return Verdict(id, [0.9], -1, chains, solution_digest=SOLUTION.digest)


@pytest.mark.parametrize(
    ("verdicts", "same"),
    [
        ([verdict("<analyze>\nfine", "<analyze>\nfine")], True),
        ([verdict("fine", "fine", "fine"), verdict("other", "other")], True),
        ([verdict("", "")], True),  # without their texts
        ([verdict("fine", "fine"), verdict("one", "two")], False),
        ([verdict("fine", "fine", "Fine")], False),
        ([verdict("fine")], False),  # one sample
        ([verdict("", "", tokens=7)], False),
        ([verdict("<output>\nYes", "<output>\nYes")], False),  # a bare verdict is one of two
        ([verdict("fine", "fine", status="error")], False),
        ([verdict()], False),
        ([], False),
    ],
)
def test_verdicts(verdicts: list[Verdict], same: bool, caplog: pytest.LogCaptureFixture) -> None:
    sameness = Sameness()
    for each in verdicts:
        sameness.add_verdict(each)
    assert sameness.is_total is same
    sameness.warn("rationales of each solution")
    assert (WARNING in caplog.text) is same


@pytest.mark.parametrize("same", [True, False])
class TestCommands:
    @pytest.fixture
    def verdicts(self, tmp_path: Path, same: bool) -> Path:
        write_jsonl(tmp_path / "v.jsonl", [verdict("fine", "fine" if same else "right", id=f"p-{i}") for i in (0, 1)])
        return tmp_path / "v.jsonl"

    def test_report(self, verdicts: Path, same: bool, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["report", str(verdicts), "--output", str(verdicts.with_suffix(".html"))]) == 0
        assert (WARNING in capsys.readouterr().err) is same
        assert (WARNING in read_page(verdicts.with_suffix(".html")).text) is same

    def test_select(self, verdicts: Path, same: bool, capsys: pytest.CaptureFixture[str]) -> None:
        pool = verdicts.with_name("pool.jsonl")
        rows = [{"id": "p", "problem": SOLUTION.problem, "answer": "4", "candidates": [SOLUTION.steps[0]] * 2}]
        write_jsonl(pool, rows)
        words = ["--verdicts", str(verdicts), "--output", str(verdicts.with_name("chosen.jsonl"))]
        assert main(["select", str(pool), *words]) == 0
        shown = capsys.readouterr().err
        assert (f"All rationales of each solution {WARNING}" in shown) is same
        assert f"All candidates of each problem {WARNING}" in shown


class Policy(CoinGenerator):
    """Writes one text again and again, or another each time."""

    def __init__(self, same: bool) -> None:
        super().__init__()
        self.same = same

    async def generate(self, token_ids, params, *, affinity=None):  # type: ignore[no-untyped-def]
        self.calls += 1
        text = " It is \\boxed{42}." + " So." * (0 if self.same else self.calls)
        return GenerationResult(text, [0], finish_reason="stop", num_generated=3)


@pytest.mark.parametrize("same", [True, False])
def test_rollouts(same: bool) -> None:
    config = RolloutConfig(first_round=2, max_samples=4, keep=2)
    problem = Problem("p1", "What is it?", "42")
    outcome = asyncio.run(roll_out(Solver(Policy(same)), problem, Partial(), config=config, source={}))
    assert outcome.counts.get("problems_with_equal_samples", 0) == int(same)


@pytest.mark.parametrize("same", [True, False])
def test_rollouts_of_a_prefix_also_after_a_kill(same: bool) -> None:
    kept: list[dict[str, object]] = []
    policy = Policy(same)

    def tree() -> RolloutTree:
        return RolloutTree(Solver(policy), "What is it?", "42", seed=0, keep=kept.append)

    first = tree()
    asyncio.run(first.sample(first.state(""), 2))
    again = tree()
    again.restore(list(kept))
    asyncio.run(again.sample(again.state(""), 4))
    assert len(again.state("").texts) == (1 if same else 2)


def test_the_page_says_so_only_where_it_is_so(tmp_path: Path) -> None:
    assert WARNING not in read_page(make_page(tmp_path, [verdict("one", "two")])).text


def test_a_service_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("fastapi")
    from genprm_trl.service.metrics import Metrics
    from genprm_trl.service.scheduler import Scheduler
    from genprm_trl.verifier.base import Verifier

    class Judge(Verifier):
        async def verify(self, solution: Solution) -> Verdict:
            return verdict("fine", "fine")

    async def judge() -> None:
        scheduler = Scheduler(4, 100, Metrics())
        batch = scheduler.submit(Judge(), [SOLUTION] * 3, n=2, chains=2)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not batch.running
        scheduler.drop(batch)

    caplog.set_level(logging.WARNING)
    asyncio.run(judge())
    assert caplog.text.count(f"All rationales of each solution so far {WARNING}") == 1
