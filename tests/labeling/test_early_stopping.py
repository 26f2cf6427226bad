"""Early stopping: exact against all that may still happen; the sequential test against its stated error."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm_trl.errors import ConfigError
from genprm_trl.labeling.early_stopping import Count, ExactStopping, NoStopping, SequentialTest, make_stopping
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
    """By trying every outcome of the remaining roll-outs."""
    return {
        judge_step(rule, Fraction(b, before.whole), Fraction(a, after.whole))
        for b in range(before.least, before.most + 1)
        if b or first
        for a in range(after.least, after.most + 1)
    }


@given(st.sampled_from(RULES), counts(), counts(), st.booleans())
@settings(max_examples=500, deadline=None)
def test_exact_stopping_leaves_exactly_what_may_happen(rule, before, after, first):
    assert ExactStopping().possible_labels(rule, before, after, first=first) == labels_left(rule, before, after, first)


@given(st.sampled_from(RULES), counts(), counts(), st.booleans(), st.sampled_from([1e-9, 0.01, 0.2]))
@settings(max_examples=300, deadline=None)
def test_the_sequential_test_only_leaves_out(rule, before, after, first, alpha):
    exact = ExactStopping().possible_labels(rule, before, after, first=first)
    left = SequentialTest(alpha).possible_labels(rule, before, after, first=first)
    assert left <= exact
    if before.complete and after.complete:
        assert left == exact == NoStopping().possible_labels(rule, before, after, first=first)
    if alpha == 1e-9 and before.trials + after.trials <= 4:  # so little evidence contradicts nothing
        assert left == exact


def test_the_plain_recipe_waits_for_every_rollout():
    both = {True, False}
    assert NoStopping().possible_labels(Hard(), Count(1, 8, 8), Count(3, 7, 8), first=True) == both
    assert NoStopping().possible_labels(Hard(), Count(1, 8, 8), Count(3, 8, 8), first=True) == {True}


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
    assert ExactStopping().possible_labels(RelativeProgress(0.8), before, after, first=False) == labels


def run_test(test: SequentialTest, rule, before_stream, after_stream, batch: int = 4) -> tuple[bool, bool, int]:
    """The test's label, the one of all roll-outs, and the roll-outs looked at."""
    planned = len(before_stream)
    before = after = 0
    while True:
        possible = test.possible_labels(
            rule,
            Count(sum(before_stream[:before]), before, planned),
            Count(sum(after_stream[:after]), after, planned),
            first=True,
        )
        if len(possible) == 1:
            everything = judge_step(rule, Fraction(sum(before_stream), planned), Fraction(sum(after_stream), planned))
            return next(iter(possible)), everything, before + after
        if after <= before and after < planned:
            after = min(after + batch, planned)
        else:
            before = min(before + batch, planned)


@pytest.mark.parametrize("alpha", [0.05, 0.3])
@pytest.mark.parametrize("rule", [RelativeProgress(0.8), Difference(0.1)])
def test_the_sequential_test_keeps_to_its_error(alpha, rule):
    # Chances at and about the threshold, where errors are made if anywhere.
    rng = random.Random(1)
    pairs = [(0.9, 0.72), (0.9, 0.8), (0.6, 0.5), (0.6, 0.42), (0.3, 0.24), (1.0, 0.85)]
    wrong = looked = total = 0
    for _ in range(60):
        for p_before, p_after in pairs:
            streams = [[rng.random() < p for _ in range(32)] for p in (p_before, p_after)]
            label, everything, trials = run_test(SequentialTest(alpha), rule, *streams)
            wrong += label != everything
            looked += trials
            total += 1
    assert wrong / total <= alpha
    assert looked < 0.97 * total * 64


def test_the_sequential_test_needs_few_rollouts_where_things_are_plain():
    test, rule = SequentialTest(0.05), RelativeProgress(0.8)
    label, everything, trials = run_test(test, rule, [True] * 64, [False] * 64)
    assert not label
    assert not everything
    assert trials <= 24
    label, everything, trials = run_test(test, rule, [True] * 64, [True] * 64)
    assert label
    assert everything
    assert trials <= 64


@pytest.mark.parametrize("alpha", [0, 1, -0.1, float("nan")])
def test_alpha_out_of_range(alpha):
    with pytest.raises(ConfigError, match="alpha"):
        make_stopping("sequential", alpha=alpha)
    with pytest.raises(ConfigError, match="choose one of none, exact, sequential"):
        make_stopping("soon")  # type: ignore[arg-type]
