"""When the average of N rewards is known: bounds that are exact."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm_trl.verifier.decision import (
    average,
    fewest_more,
    is_decided,
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
    assert fewest_more([], n, threshold) == first


@given(st.lists(REWARDS, max_size=9), THRESHOLDS)
def test_no_smaller_wave_could_decide(rewards, threshold):
    n = 10
    if rewards and is_decided(rewards, n, threshold):
        return
    more = fewest_more(rewards, n, threshold)
    assert 1 <= more <= n - len(rewards)
    for fewer in range(1, more):
        assert not is_decided([*rewards, *[1.0] * fewer], n, threshold)
        assert not is_decided([*rewards, *[0.0] * fewer], n, threshold)
    assert any(is_decided([*rewards, *[reward] * more], n, threshold) for reward in (0.0, 1.0))


@given(st.lists(REWARDS, min_size=1, max_size=20), THRESHOLDS, st.integers(1, 20))
def test_a_decided_side_is_that_of_the_average_of_what_was_seen(rewards, threshold, seen):
    known = rewards[: min(seen, len(rewards))]
    if is_decided(known, len(rewards), threshold):
        assert (average(known) < threshold) == (average(rewards) < threshold)
