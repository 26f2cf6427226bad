"""Chains of one solution: whatever the order in which judgements come, the verdict is the same, and nothing hangs."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm_trl._loops import FairGate
from genprm_trl.errors import GenPRMError
from genprm_trl.records import StepJudgement, prediction_from_rewards
from genprm_trl.verifier.decision import average
from genprm_trl.verifier.run import run_chains
from genprm_trl.verifier.tally import Tally

REWARD = st.sampled_from([0.0, 0.1, 0.4, 0.5, 0.6, 0.9, 1.0]) | st.floats(0, 1)


@st.composite
def reward_tables(draw: st.DrawFn) -> list[list[float]]:
    """`table[chain][step]`."""
    chains, steps = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    row = st.lists(REWARD, min_size=steps, max_size=steps)
    return draw(st.lists(row, min_size=chains, max_size=chains))


class TableChain:
    """Judges as the table says, after a random number of turns of the event loop."""

    def __init__(self, rewards: list[float], rng: random.Random, open_chains: set[TableChain]):
        self.rewards, self.rng, self.judged, self.open = iter(rewards), rng, 0, open_chains
        open_chains.add(self)

    async def judge_step(self) -> StepJudgement:
        for _ in range(self.rng.randrange(12)):
            await asyncio.sleep(0)
        self.judged += 1
        return StepJudgement(f"step {self.judged}", next(self.rewards), "ok")

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.open.discard(self)


def judge(table, threshold, stop, adaptive, seed, slots) -> tuple[list[list[float]], list[float], int]:
    """Runs the chains; returns the rewards of the verdict's chains, their averages, and the steps judged in all."""
    tally = Tally(len(table), len(table[0]), threshold, stop, adaptive)
    rng, still_open, chains = random.Random(seed), set(), []

    def open_chain(index: int) -> TableChain:
        chains.append(TableChain(table[index], rng, still_open))
        return chains[-1]

    async def run() -> None:
        await asyncio.wait_for(run_chains(tally, open_chain, FairGate(slots)), 20)

    asyncio.run(run())
    assert not still_open
    held = [[judgement.reward for judgement in chain] for chain in tally.judged()]
    return held, tally.averages(), sum(chain.judged for chain in chains)


@settings(max_examples=250, deadline=None)
@given(
    table=reward_tables(),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
    stop=st.sampled_from(["never", "first_error"]),
    adaptive=st.booleans(),
    seeds=st.tuples(st.integers(0, 2**32), st.integers(0, 2**32)),
    slots=st.tuples(st.integers(1, 8), st.integers(1, 8)),
)
def test_verdicts_do_not_depend_on_timing_and_predict_as_a_full_run(table, threshold, stop, adaptive, seeds, slots):
    averages = [average(step) for step in zip(*table, strict=True)]
    prediction = prediction_from_rewards(averages, threshold)

    held, rewards, _ = judge(table, threshold, stop, adaptive, seeds[0], slots[0])
    assert (held, rewards) == judge(table, threshold, stop, adaptive, seeds[1], slots[1])[:2]
    # The first chains, each up to the same step, with the rewards that they have in a full run.
    assert held == [row[: len(rewards)] for row in table[: len(held)]]
    assert rewards == [average(step) for step in zip(*held, strict=True)]
    found = prediction_from_rewards(rewards, threshold)
    assert found == prediction
    if not adaptive:
        assert len(held) == len(table)
        assert rewards == averages[: len(rewards)]
    if stop == "never":
        assert len(rewards) == len(averages)
    elif found >= 0:
        assert len(rewards) == found + 1
    else:
        assert len(rewards) == len(averages)


class HangingChain(TableChain):
    """Judges at once, and hangs at a step."""

    def __init__(self, rewards: list[float], hangs_at: int | None, open_chains: set[TableChain]):
        super().__init__(rewards, random.Random(0), open_chains)
        self.hangs_at = hangs_at

    async def judge_step(self) -> StepJudgement:
        if self.judged == self.hangs_at:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        self.judged += 1
        return StepJudgement("", next(self.rewards), "ok")


async def run_hanging(tally: Tally, table, hangs_at: dict[int, int]) -> list[HangingChain]:
    still_open: set[TableChain] = set()
    chains: list[HangingChain] = []

    def open_chain(index: int) -> HangingChain:
        chains.append(HangingChain(table[index], hangs_at.get(index), still_open))
        return chains[-1]

    await asyncio.wait_for(run_chains(tally, open_chain, contextlib.nullcontext()), 5)
    assert not still_open
    return chains


async def test_chains_that_ran_ahead_are_ended_once_the_first_error_is_sure():
    table = [[1.0, 0.0, 1.0, 1.0]] * 4
    tally = Tally(4, 4, 0.5, "first_error")
    await run_hanging(tally, table, {0: 2, 1: 3})  # in steps that nobody needs any more
    assert [len(chain) for chain in tally.judged()] == [2] * 4


async def test_a_late_chain_does_not_keep_the_others_running():
    """Three of four say no: the step is wrong whatever the fourth says, which hangs there for good."""
    tally = Tally(4, 3, 0.5, "first_error")
    still_open: set[TableChain] = set()
    table = [[0.0, 1.0, 1.0]] * 4
    chains = [HangingChain(table[0], 0 if index == 3 else None, still_open) for index in range(4)]
    task = asyncio.create_task(run_chains(tally, chains.__getitem__, contextlib.nullcontext()))
    await asyncio.sleep(0.05)
    assert not task.done()  # its reward is part of the average
    assert tally.needed == 1
    assert [chain.judged for chain in chains] == [1, 1, 1, 0]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not still_open


@pytest.mark.parametrize("stop", ["never", "first_error"])
async def test_unanimous_chains_leave_the_others_unstarted(stop):
    tally = Tally(8, 3, 0.5, stop, adaptive=True)
    chains = await run_hanging(tally, [[1.0, 0.9, 1.0]] * 8, {})
    assert len(chains) == 5  # 3.6 for the second step: one more
    assert len(tally.judged()) == 5


async def test_chains_wait_at_a_contested_step_and_go_on_when_it_is_told():
    table = [[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]
    tally = Tally(5, 3, 0.5, "first_error", adaptive=True)
    chains = await run_hanging(tally, table, {})
    assert prediction_from_rewards(tally.averages(), 0.5) == 1
    # The first two were in the third step when the last of their wave contested the second.
    assert [chain.judged for chain in chains] == [3, 3, 2, 2]
    table = [[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    tally = Tally(5, 3, 0.5, "first_error", adaptive=True)
    chains = await run_hanging(tally, table, {})
    assert prediction_from_rewards(tally.averages(), 0.5) == -1
    assert [chain.judged for chain in chains] == [3] * 5


@pytest.mark.parametrize("others", [0, 1])
async def test_a_failure_ends_all_chains_and_is_raised_as_it_is(others):
    class Failing(HangingChain):
        async def judge_step(self) -> StepJudgement:
            raise GenPRMError("the generator is closed")

    still_open: set[TableChain] = set()
    chains = [HangingChain([1.0], 0, still_open) for _ in range(others)] + [Failing([1.0], None, still_open)]
    with pytest.raises(GenPRMError, match="closed"):
        await run_chains(Tally(len(chains), 1, 0.5), chains.__getitem__, contextlib.nullcontext())
    assert not still_open


async def test_a_lone_chain_is_closed_when_its_solution_is_given_up():
    still_open: set[TableChain] = set()
    chain = HangingChain([1.0], 0, still_open)
    task = asyncio.create_task(run_chains(Tally(1, 1, 0.5), [chain].__getitem__, contextlib.nullcontext()))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not still_open


def test_rewards_outside_of_the_unit_interval_are_refused():
    tally = Tally(1, 1, 0.5)
    for reward in (float("nan"), -0.1, 1.5):
        with pytest.raises(ValueError, match="within"):
            tally.add(0, StepJudgement("", reward, "ok"))
