"""Early stopping: against all that may still happen."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm_trl.labeling.early_stopping import Count, possible_labels
from genprm_trl.labeling.progress import Difference, Hard, RelativeProgress, judge_step

RULES = [RelativeProgress(0.8), RelativeProgress(1.0), RelativeProgress(0.1), Difference(0.1), Difference(0.5), Hard()]


@st.composite
def counts(draw, largest=12):
    planned = draw(st.integers(0, largest))
    if planned == 0:
        return Count(draw(st.integers(0, 1)), 0, 0)
    trials = draw(st.integers(0, planned))
    return Count(draw(st.integers(0, trials)), trials, planned)


def labels_left(rule, before, after, first):
    """By trying every outcome of the remaining rollouts."""
    return {
        judge_step(rule, Fraction(b, before.whole), Fraction(a, after.whole))
        for b in range(before.least, before.most + 1)
        if b or first
        for a in range(after.least, after.most + 1)
    }


@given(st.sampled_from(RULES), counts(), counts(), st.booleans())
@settings(max_examples=500, deadline=None)
def test_exact_stopping_leaves_exactly_what_may_happen(rule, before, after, first):
    assert possible_labels(rule, before, after, first=first) == labels_left(rule, before, after, first)


# By hand, for epsilon 0.8 and K = 10: five successes before want four after.
@pytest.mark.parametrize(
    ("before", "after", "labels"),
    [
        (Count(5, 10, 10), Count(4, 4, 10), {True}),
        (Count(5, 10, 10), Count(3, 9, 10), {True, False}),
        (Count(5, 10, 10), Count(2, 9, 10), {False}),
        (Count(4, 9, 10), Count(4, 6, 10), {True}),  # five before at most
        (Count(4, 9, 10), Count(3, 10, 10), {False}),  # four before at least, which want 3.2
        (Count(3, 9, 10), Count(3, 10, 10), {True, False}),
        (Count(5, 10, 10), Count(1, 0, 0), {True}),  # the answer is right
        (Count(5, 10, 10), Count(0, 0, 0), {False}),
    ],
)
def test_relative_progress_by_hand(before, after, labels):
    assert possible_labels(RelativeProgress(0.8), before, after, first=False) == labels
