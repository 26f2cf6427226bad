"""Maj@N scores from chains: against the plain definition, and by hand."""

from __future__ import annotations

import math
import random

import pytest

from genprm_trl.metrics.estimates import (
    interval_over_seeds,
    mean_estimate,
    processbench_by_votes,
    processbench_estimates,
)
from genprm_trl.metrics.processbench import processbench_scores
from genprm_trl.records import prediction_from_rewards


def random_chains(seed: int, solutions: int = 30, chains: int = 8):
    rng = random.Random(seed)
    labels = [rng.choice([-1, 0, 1, 2]) for _ in range(solutions)]
    rewards = [[[rng.random() ** 0.3 for _ in range(3)] for _ in range(chains)] for _ in range(solutions)]
    return labels, rewards


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_agrees_with_scoring_each_group_as_a_verifier_of_its_own(n):
    labels, rewards = random_chains(n)
    expected = []
    for group in range(8 // n):
        predictions = [
            prediction_from_rewards(
                [sum(chain[t] for chain in solution[group * n : group * n + n]) / n for t in range(3)]
            )
            for solution in rewards
        ]
        expected.append(processbench_scores(labels, predictions))
    found = processbench_by_votes(labels, rewards, n)
    for name in ("error_acc", "correct_acc", "f1"):
        assert found[name].value == pytest.approx(sum(scores[name] for scores in expected) / len(expected))
        assert found[name].low <= found[name].value <= found[name].high


def test_by_hand():
    # Chain 1 finds the error and chain 2 does not; their mean, 0.45, does. Both pass the right solution.
    labels = [1, -1]
    rewards = [[[0.9, 0.1], [0.9, 0.8]], [[0.9, 0.9], [0.7, 0.6]]]
    one, two = (processbench_by_votes(labels, rewards, n, resamples=10) for n in (1, 2))
    assert (one["error_acc"].value, one["correct_acc"].value, one["f1"].value) == (50, 100, 50)
    assert (two["error_acc"].value, two["correct_acc"].value, two["f1"].value) == (100, 100, 100)


def test_intervals_repeat_with_the_seed():
    labels, rewards = random_chains(0)
    assert processbench_by_votes(labels, rewards, 4) == processbench_by_votes(labels, rewards, 4)
    assert processbench_by_votes(labels, rewards, 4, seed=1) != processbench_by_votes(labels, rewards, 4)


def test_the_interval_of_a_mean_is_the_normal_one():
    values = [0.0, 1.0] * 200
    estimate = mean_estimate(values, resamples=4000)
    stderr = 100 * 0.5 / math.sqrt(len(values))
    assert estimate.value == 50
    assert estimate.stderr == pytest.approx(stderr, rel=0.05)
    assert estimate.low == pytest.approx(50 - 1.96 * stderr, abs=0.5)
    assert estimate.high == pytest.approx(50 + 1.96 * stderr, abs=0.5)
    assert mean_estimate(values, seed=1) == mean_estimate(values, seed=1) != mean_estimate(values, seed=2)
    with pytest.raises(ValueError, match="no values"):
        mean_estimate([])


def test_resamples_without_a_class_are_left_out():
    # Some resamples lack the one error; in none is a label paired with another solution's prediction.
    estimates = processbench_estimates([0, -1, -1], [[0], [-1], [-1]])
    assert {name: (e.value, e.low, e.high, e.stderr) for name, e in estimates.items()} == dict.fromkeys(
        ("error_acc", "correct_acc", "f1"), (100, 100, 100, 0)
    )
    estimates = processbench_estimates([-1, -1], [[-1], [None]])
    assert estimates["correct_acc"].value == 50
    assert math.isnan(estimates["error_acc"].value)
    assert math.isnan(estimates["f1"].low)


@pytest.mark.parametrize(
    ("labels", "chains", "n"),
    [([0], [[[0.1]], [[0.2]]], 1), ([0, -1], [[[0.1]], [[0.2]]], 2), ([0, 0], [[[0.1]], [[0.2]]], 1), ([], [], 1)],
)
def test_unusable_input_is_refused(labels, chains, n):
    with pytest.raises(ValueError):
        processbench_by_votes(labels, chains, n)


def test_a_vote_without_a_verdict_is_wrong():
    nan = math.nan
    chains = [[[0.9, nan], [0.8, 0.9]], [[nan, 0.1], [nan, 0.2]], [[0.9, 0.1, nan], [0.9, nan, nan]]]
    single = processbench_by_votes([-1, 1, 1], chains, 1)
    assert (single["correct_acc"].value, single["error_acc"].value) == (50.0, 25.0)
    both = processbench_by_votes([-1, 1, 1], chains, 2)
    assert (both["correct_acc"].value, both["error_acc"].value) == (100.0, 50.0)


def test_the_interval_over_seeds_is_students():
    # 15.55 and 3.182 standard errors of 0.6614: three degrees of freedom
    low, high = interval_over_seeds([15.2, 16.1, 13.9, 17.0])
    assert (low, high) == (pytest.approx(13.445, abs=0.001), pytest.approx(17.655, abs=0.001))
    # Above ten values the quantile of nine degrees of freedom serves, which is a little wide.
    many = [float(value) for value in range(30)]
    low, high = interval_over_seeds(many)
    assert 14.5 - low == pytest.approx(high - 14.5)
    assert high - 14.5 == pytest.approx(2.262 * 8.803 / math.sqrt(30), abs=1e-3)
    assert all(map(math.isnan, interval_over_seeds([1.0])))
    with pytest.raises(ValueError, match="no values"):
        interval_over_seeds([])
