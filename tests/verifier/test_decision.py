"""When the average of N rewards is known: bounds that are exact, a sequential test that keeps its error."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm_trl.verifier.decision import (
    BettingTest,
    DecisionRule,
    ExactRule,
    SequentialRule,
    average,
    is_surely_below,
    is_surely_not_below,
)

REWARDS = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0, 0.3, math.nextafter(0.5, 0), 1 - 2**-53])
THRESHOLDS = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0]) | st.floats(0, 1)


@given(st.lists(REWARDS, min_size=1, max_size=12), st.lists(REWARDS, max_size=12), THRESHOLDS)
def test_what_is_sure_is_so_whatever_follows(known, missing, threshold):
    n = len(known) + len(missing)
    is_below = average([*known, *missing]) < threshold
    if is_surely_below(known, n, threshold):
        assert is_below
    if is_surely_not_below(known, n, threshold):
        assert not is_below


@given(st.lists(REWARDS, min_size=1, max_size=12), st.integers(0, 12), THRESHOLDS)
def test_what_is_not_sure_can_go_either_way(known, missing, threshold):
    n = len(known) + missing
    if not is_surely_below(known, n, threshold):
        assert average([*known, *[1.0] * missing]) >= threshold
    if not is_surely_not_below(known, n, threshold):
        assert average([*known, *[0.0] * missing]) < threshold


@given(st.permutations([0.1, 0.2, 0.3, 0.7, 1e-17, 1.0]))
def test_averages_do_not_depend_on_the_order(rewards):
    assert average(rewards) == average(sorted(rewards))


@pytest.mark.parametrize(
    ("n", "threshold", "first"), [(8, 0.5, 4), (7, 0.5, 4), (1, 0.5, 1), (10, 0.9, 2), (8, 0.0, 1)]
)
def test_the_first_wave_is_as_large_as_it_must_be(n, threshold, first):
    assert ExactRule(n, threshold).fewest_more([]) == first


@given(st.lists(REWARDS, max_size=9), THRESHOLDS, st.sampled_from(["exact", "sequential"]))
def test_no_smaller_wave_could_decide(rewards, threshold, kind):
    n = 10
    rule: DecisionRule = ExactRule(n, threshold) if kind == "exact" else SequentialRule(n, threshold, 0.05)
    if rewards and rule.side(rewards) is not None:
        return
    more = rule.fewest_more(rewards)
    assert 1 <= more <= n - len(rewards)
    for fewer in range(1, more):
        assert rule.side([*rewards, *[1.0] * fewer]) is None
        assert rule.side([*rewards, *[0.0] * fewer]) is None


@given(st.lists(REWARDS, min_size=1, max_size=20), THRESHOLDS, st.integers(1, 20))
def test_the_side_agrees_with_the_average_of_what_was_seen(rewards, threshold, seen):
    seen = min(seen, len(rewards))
    for rule in (ExactRule(len(rewards), threshold), SequentialRule(len(rewards), threshold, 0.2)):
        side = rule.side(rewards[:seen])
        if side is not None:
            assert (side == "below") == (average(rewards[:seen]) < threshold)


def test_the_sequential_rule_needs_fewer_chains_than_the_exact_one_where_n_is_large():
    exact, sequential = ExactRule(64, 0.5), SequentialRule(64, 0.5, 0.01)
    ones = [1.0] * 64
    needed = [next(k for k in range(1, 65) if rule.side(ones[:k])) for rule in (exact, sequential)]
    assert needed[0] == 32
    assert needed[1] <= 12


def _population(rng: random.Random, n: int) -> list[float]:
    """Rewards near the threshold, of several shapes."""
    shape = rng.choice(["votes", "graded", "sure"])
    p = rng.choice([0.4, 0.5, 0.6])
    if shape == "votes":
        return [float(rng.random() < p) for _ in range(n)]
    if shape == "graded":
        return [rng.betavariate(4 * p, 4 * (1 - p)) for _ in range(n)]
    return [rng.betavariate(0.2 * p, 0.2 * (1 - p)) for _ in range(n)]


@pytest.mark.parametrize("error", [0.2, 0.05])
def test_the_sequential_rule_keeps_its_error(error):
    """Simulated near the threshold, where it is hardest. The rule sees chains one by one, as often as it likes."""
    rng, trials, n = random.Random(0), 1500, 16
    wrong = spent = 0
    for _ in range(trials):
        rewards = _population(rng, n)
        rule = SequentialRule(n, 0.5, error)
        for seen in range(1, n + 1):
            side = rule.side(rewards[:seen])
            if side is not None:
                break
        spent += seen
        wrong += (side == "below") != (average(rewards) < 0.5)
    assert wrong / trials <= error
    assert spent / trials < n


def test_wealth_is_fair_where_the_mean_is_at_the_bound():
    """The expected wealth stays 1: averaged over all orders of a population whose mean is the bound."""
    rng, total, trials = random.Random(1), 0.0, 5000
    for _ in range(trials):
        values = [1.0, 0.0, 0.5, 0.25, 0.75, 0.5]
        rng.shuffle(values)
        test = BettingTest(len(values), 0.5)
        test.add(values[:4])
        total += sum(test._fortunes)
    assert total / trials == pytest.approx(1, abs=0.05)
