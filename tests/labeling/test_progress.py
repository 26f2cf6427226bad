"""Step labels against tables worked out by hand from the rules' definitions (arXiv 2504.00891, section 3.2)."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import genprm_trl.labeling
from genprm_trl.errors import ConfigError
from genprm_trl.labeling import difference_labels, hard_labels, relative_progress
from genprm_trl.labeling.progress import false_alarms, first_error, judge_step, make_rule

T, F = True, False

# initial, mc, then the labels: RPE at 0.8, RPE at 1.0, hard, difference of 0.1, difference of 0.5.
TABLE = {
    "all right": (0.5, [0.5, 0.625, 1.0], [T, T, T], [T, T, T], [T, T, T], [T, T, T], [T, T, T]),
    "a small loss": (0.625, [0.5, 0.375], [T, F], [F, F], [T, T], [F, F], [T, T]),
    "a loss and no recovery": (
        0.75, [0.75, 0.25, 0.25], [T, F, T], [T, F, T], [T, T, T], [T, F, T], [T, T, T],
    ),
    "a large loss": (1.0, [1.0, 0.4375], [T, F], [T, F], [T, T], [T, F], [T, F]),
    "lost": (0.5, [0.5, 0.0, 0.0, 0.0], [T, F, F, F], [T, F, F, F], [T, F, F, F], [T, F, F, F],
             [T, T, F, F]),
    "zero stays zero": (0.5, [0.0, 0.5, None], [F, F, F], [F, F, F], [F, F, F], [F, F, F], [T, F, F]),
    "MC(s_1) = 0, and a step that helps": (0.0, [0.25, 0.25], [T, T], [T, T], [T, T], [T, T], [T, T]),
    "MC(s_1) = 0, and none that does": (0.0, [0.0, None], [F, F], [F, F], [F, F], [F, F], [F, F]),
    "a ratio above 1": (0.25, [1.0], [T], [T], [T], [T], [T]),
    "one step, right": (0.5, [1.0], [T], [T], [T], [T], [T]),
    "one step, wrong": (0.5, [0.0], [F], [F], [F], [F], [T]),
    "nothing to lose": (0.0625, [0.0, 0.0], [F, F], [F, F], [F, F], [T, F], [T, F]),
    "no steps": (0.5, [], [], [], [], [], []),
    # Ties that floating point would lose: 0.24 / 0.3 and 0.6 - 0.7.
    "ties": (0.3, [0.24], [T], [F], [T], [T], [T]),
    "a tie of differences": (0.7, [0.6], [T], [F], [T], [T], [T]),
    "counts of 64": (57 / 64, [46 / 64, 36 / 64], [T, F], [F, F], [T, T], [F, F], [T, T]),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_labels_by_hand(name):
    initial, mc, rpe, rpe_1, hard, near, far = TABLE[name]
    assert relative_progress(mc, initial) == rpe
    assert relative_progress(mc, initial, epsilon=1.0) == rpe_1
    assert hard_labels(mc, initial) == hard
    assert difference_labels(mc, initial) == near
    assert difference_labels(mc, initial, delta=0.5) == far


def test_first_error_is_processbenchs_label():
    assert first_error([T, T, F, T]) == 2
    assert first_error([T]) == first_error([]) == -1


@pytest.mark.parametrize("mc", [[1.5], [-0.1], [math.nan], [0.5, None], [None]])
def test_estimates_that_are_none(mc):
    for rule in (relative_progress, hard_labels, difference_labels):
        with pytest.raises(ValueError, match=r"mc\[[01]\]"):
            rule(mc, 0.5)
        with pytest.raises(ValueError, match="initial"):
            rule([0.5], 1.01)


@pytest.mark.parametrize("epsilon", [0, -0.8, math.nan, math.inf])
def test_thresholds_out_of_range(epsilon):
    with pytest.raises(ConfigError, match="epsilon"):
        relative_progress([0.5], 0.5, epsilon)
    with pytest.raises(ConfigError, match="delta"):
        difference_labels([0.5], 0.5, -0.1)
    with pytest.raises(ConfigError, match="choose one of rpe, hard, difference"):
        make_rule("soft")  # type: ignore[arg-type]


ESTIMATES = st.integers(0, 64).map(lambda count: count / 64)


@given(st.lists(ESTIMATES, max_size=8), ESTIMATES, st.sampled_from([0.1, 0.5, 0.8, 1.0]))
def test_rules_order(mc, initial, epsilon):
    hard = hard_labels(mc, initial)
    relative = relative_progress(mc, initial, epsilon)
    assert all(h or not r for h, r in zip(hard, relative, strict=True))  # progress implies a chance left
    for looser in (0.05, epsilon / 2):
        assert all(
            loose or not strict for loose, strict in zip(relative_progress(mc, initial, looser), relative, strict=True)
        )
    # What stands after the first zero does not matter.
    end = mc.index(0) + 1 if 0 in mc else len(mc)
    cut = mc[:end] + [None] * (len(mc) - end)
    assert relative_progress(cut, initial, epsilon) == relative
    assert difference_labels(cut, initial) == difference_labels(mc, initial)


def test_the_package_exports_them_and_nothing_heavy():
    assert set(genprm_trl.labeling.__all__) <= set(dir(genprm_trl.labeling))
    with pytest.raises(AttributeError):
        genprm_trl.labeling.soft_labels  # noqa: B018


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.7, 1.0])
def test_false_alarms_of_few_rollouts(rate):
    fails = 1 - rate
    # One rollout: the step is wrong where it fails after the step, whatever was before.
    for rule in (make_rule("rpe"), make_rule("hard"), make_rule("difference")):
        assert false_alarms(rule, rate, 1) == pytest.approx(fails)
    # Two: hard labels need both to fail. Relative progress also flags one success after two.
    assert false_alarms(make_rule("hard"), rate, 2) == pytest.approx(fails**2)
    assert false_alarms(make_rule("rpe"), rate, 2) == pytest.approx(fails**2 + rate**2 * 2 * rate * fails)


@given(st.sampled_from(["rpe", "hard", "difference"]), st.floats(0, 1), st.integers(1, 24))
def test_false_alarms_are_the_pairs_of_counts_that_a_rule_calls_wrong(name, rate, rollouts):
    rule = make_rule(name)
    chances = [math.comb(rollouts, n) * rate**n * (1 - rate) ** (rollouts - n) for n in range(rollouts + 1)]
    expected = sum(
        chances[before] * chances[after]
        for before in range(rollouts + 1)
        for after in range(rollouts + 1)
        if not judge_step(rule, Fraction(before, rollouts), Fraction(after, rollouts))
    )
    assert false_alarms(rule, rate, rollouts) == pytest.approx(expected, abs=1e-9)
