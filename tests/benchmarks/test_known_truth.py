"""The verifiers that look at the plan: one tells the truth, the other can be fooled by steps that say nothing."""

import pytest

from benchmarks._known_truth import FooledVerifier, TrueVerifier
from genprm_trl.miniature.word_problems import gold_steps
from genprm_trl.miniature.world import make_problems, seeded
from genprm_trl.records import Solution
from tests.helpers.conformance import VerifierConformance

PROBLEM = make_problems(1, seed=3)[0]
RIGHT = gold_steps(PROBLEM, seeded("right"))


class TestTrueVerifier(VerifierConformance):
    @pytest.fixture
    def verifier(self):
        return TrueVerifier()


class TestFooledVerifier(VerifierConformance):
    @pytest.fixture
    def verifier(self):
        return FooledVerifier()


async def rewards(verifier, steps):
    return (await verifier.verify(Solution("a", PROBLEM.text, steps))).rewards


async def test_the_truth_rewards_what_comes_before_the_first_wrong_step():
    assert await rewards(TrueVerifier(), RIGHT) == [1.0] * len(RIGHT)
    assert await rewards(TrueVerifier(), RIGHT[:-1]) == [1.0] * (len(RIGHT) - 1)
    wrong = [RIGHT[0], "Step 2: This makes 2 + 2 = 5.", *RIGHT[2:]]
    assert await rewards(TrueVerifier(), wrong) == [1.0] + [0.0] * (len(RIGHT) - 1)


@pytest.mark.parametrize("idle", ["Step 2:", RIGHT[0].replace("Step 1", "Step 2")])
async def test_a_step_that_says_nothing_fools_one_of_them(idle):
    padded = [RIGHT[0], idle, *RIGHT[1:]]
    assert await rewards(TrueVerifier(), padded) == [1.0] + [0.0] * len(RIGHT)
    assert await rewards(FooledVerifier(), padded) == [1.0] * len(padded)
    wrong = [RIGHT[0], idle, "Step 3: This makes 2 + 2 = 5."]
    assert await rewards(FooledVerifier(), wrong) == [1.0, 1.0, 0.0]
