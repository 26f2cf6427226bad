"""What every verifier has by the base class alone, seen in one that scores steps without any text."""

from __future__ import annotations

import asyncio

import pytest

from genprm_trl.errors import GenPRMError
from genprm_trl.records import Solution, StepJudgement, Verdict, prediction_from_rewards
from genprm_trl.verifier import Verifier, base
from genprm_trl.verifier.base import check_steps, longest_first
from tests.helpers.conformance import VerifierConformance


class LengthVerifier(Verifier):
    """Another kind of verifier: a step's reward says how short it is."""

    concurrency = 3

    def __init__(self) -> None:
        self.running = self.most = 0
        self.closed = False

    async def verify(self, solution: Solution) -> Verdict:
        check_steps(solution)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.001)
        self.running -= 1
        if "boom" in solution.steps:
            raise GenPRMError("it broke")
        rewards = [1 / (1 + len(step)) for step in solution.steps]
        chain = [StepJudgement("", reward, "ok") for reward in rewards]
        first_wrong = prediction_from_rewards(rewards)
        known = {"label": solution.label, "solution_digest": solution.digest}
        return Verdict(solution.id, rewards, first_wrong, [chain], **known)

    async def close(self) -> None:
        self.closed = True


class TestLengthVerifier(VerifierConformance):
    @pytest.fixture
    def verifier(self) -> LengthVerifier:
        return LengthVerifier()


def solutions(count: int) -> list[Solution]:
    return [Solution(str(number), "p", ["step"] * (1 + number % 4)) for number in range(count)]


def test_many_are_judged_at_once_but_no_more_than_it_asks_for():
    verifier = LengthVerifier()
    verdicts = list(verifier.verify_all(solutions(40), progress=False))
    assert sorted(int(verdict.id) for verdict in verdicts) == list(range(40))
    assert verifier.most == verifier.concurrency + 1
    assert len(verdicts[0].rewards) == 4  # the longest come first


def test_the_longest_of_those_ahead_comes_first(monkeypatch):
    few = solutions(10)
    assert list(longest_first(few)) == sorted(few, key=lambda solution: -len(solution.steps))
    assert list(longest_first([])) == []
    monkeypatch.setattr(base, "LOOK_AHEAD", 3)
    taken = []
    stream = longest_first(taken.append(each) or each for each in solutions(10))
    found = []
    for each in stream:
        found.append(each)
        assert len(taken) <= len(found) + 3
        assert len(each.steps) == max(len(other.steps) for other in taken[: len(found) + 2] if other not in found[:-1])
    assert sorted(int(each.id) for each in found) == list(range(10))


def test_an_iterable_is_taken_from_as_there_is_room():
    taken = 0

    def lazily():
        nonlocal taken
        for solution in solutions(1000):
            taken += 1
            yield solution

    stream = LengthVerifier().verify_all(lazily(), progress=False)
    next(stream)
    stream.close()
    assert taken < 400


def test_what_was_judged_before_a_failure_is_handed_out():
    stream = LengthVerifier().verify_all(iter([*solutions(8), Solution("bad", "p", ["boom"])]), progress=False)
    found = [next(stream) for _ in range(5)]
    with pytest.raises(GenPRMError, match="it broke"):
        found.extend(stream)
    assert len(found) == 8


async def test_further_steps_are_judged_with_the_whole_solution():
    verifier = LengthVerifier()
    first = await verifier.verify_further(Solution("1", "p", ["a"]))
    both = await verifier.verify_further(Solution("1", "p", ["a", "bcd"]), first, affinity="p")
    assert (first.rewards, both.rewards) == ([0.5], [0.5, 0.25])


async def test_it_is_closed_at_the_end_of_either_block():
    """Also where an event loop runs, as in a notebook."""
    with LengthVerifier() as verifier:
        assert not verifier.closed
    assert verifier.closed
    async with LengthVerifier() as verifier:
        assert not verifier.closed
    assert verifier.closed
