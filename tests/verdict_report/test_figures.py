"""The charts' numbers against ones worked out by hand or by the metrics themselves, and where there are none."""

from __future__ import annotations

import itertools

import pytest

from genprm_trl.metrics.estimates import processbench_by_votes
from genprm_trl.metrics.processbench import best_threshold, processbench_scores
from genprm_trl.verdict_report.charts import draw, round_steps
from genprm_trl.verdict_report.figures import CUT_OFF, NO_LABELS, ONE_CLASS, Judged, measure, wilson_interval
from tests.helpers.verdict_examples import verdict

# Two chains each; the second solution's error is found by their mean alone, the third is flagged wrongly.
VERDICTS = [
    verdict("a", [[0.9, 0.8, 0.9], [0.9, 0.6, 0.9]], label=-1),
    verdict("b", [[0.9, 0.6, 0.1], [0.9, 0.2, 0.1]], label=1),
    verdict("c", [[0.3, 0.9, 0.9], [0.4, 0.9, 0.9]], label=-1),
    verdict("d", [[0.95, 0.05, 0.3], [0.95, 0.05, 0.3]], label=1),
]


def measured(verdicts, **options):
    return measure([Judged.of(one) for one in verdicts], **options)


def test_histogram_tells_right_wrong_and_unlabelled_steps_apart():
    histogram = measured(VERDICTS).histogram
    assert sum(histogram["right"]) == 3 + 1 + 3 + 1
    assert sum(histogram["wrong"]) == 2
    assert sum(histogram["unknown"]) == 2  # after the first wrong step a label says nothing
    assert histogram["wrong"][8] == 1  # 0.4
    assert histogram["right"][7] == 1  # 0.35
    top = measured([verdict("e", [[1.0]], label=-1)]).histogram
    assert top["right"][-1] == 1


def test_reliability_by_hand():
    bins = measured(VERDICTS).reliability
    assert [one.steps for one in bins] == [1, 1, 1, 1, 6]
    assert [one.right for one in bins] == [0, 1, 0, 1, 1]
    last = bins[-1]
    assert last.mean_reward == pytest.approx((0.9 + 0.9 + 0.9 + 0.9 + 0.9 + 0.95) / 6)
    assert (last.low, last.high) == wilson_interval(1.0, 6)


def test_wilson_interval_of_a_known_case():
    # Newcombe 1998, table I: 81 of 263.
    low, high = wilson_interval(81 / 263, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_curves_are_those_of_the_metrics():
    figures = measured(VERDICTS)
    labels = [one.label for one in VERDICTS]
    chains = [[[judgement.reward for judgement in chain] for chain in one.chains] for one in VERDICTS]
    assert list(figures.by_n) == [1, 2]
    for n, score in figures.by_n.items():
        assert score == processbench_by_votes(labels, chains, n)["f1"]
    assert figures.by_threshold[0.5] == figures.scores
    assert figures.scores == processbench_scores(labels, [-1, 1, 0, 1])
    assert figures.by_threshold[0.3]["f1"] == pytest.approx(2 * 100 * 50 / 150)
    assert figures.best == best_threshold(labels, [one.rewards for one in VERDICTS])


def test_n_of_many_chains_are_few_points():
    many = [verdict(str(n), [[0.9, 0.2]] * 20, label=label) for n, label in enumerate([1, -1])]
    assert list(measured(many, all_steps=True).by_n) == [1, 2, 3, 4, 5, 6, 7, 8, 16, 20]


def test_with_adaptive_n_the_curve_ends_at_the_fewest():
    adaptive = [*VERDICTS, verdict("e", [[0.9, 0.9]] * 8, label=-1, n=8)]
    figures = measured(adaptive)
    assert list(figures.by_n) == [1, 2]
    assert figures.chains == (2, 8)
    assert "up to 8" in draw(figures)[2].summary


def test_without_labels():
    figures = measured([verdict("a", [[0.1, 0.9]])])
    assert figures.scores is None
    assert figures.no_by_n == figures.no_by_threshold == NO_LABELS
    charts = draw(figures)
    assert charts[0].bars
    assert [chart.missing for chart in charts[1:]] == [NO_LABELS] * 3


def test_with_one_class():
    figures = measured([VERDICTS[0]])
    assert figures.no_by_n == figures.no_by_threshold == ONE_CLASS
    assert figures.reliability


def test_with_one_chain():
    figures = measured([verdict("a", [[0.9, 0.9]], label=-1), verdict("b", [[0.1, 0.9]], label=0)])
    assert not figures.by_n
    assert "two rationales" in figures.no_by_n
    assert figures.by_threshold


def test_steps_left_out_leave_charts_out():
    # Each flagged verdict ends at its prediction, as under `stop="first_error"`.
    cut = [verdict("a", [[0.9, 0.2]] * 2, label=1), verdict("b", [[0.9, 0.9, 0.9]] * 2, label=-1)]
    figures = measured(cut)
    assert figures.cut_off
    assert figures.no_by_n == CUT_OFF
    assert min(figures.by_threshold) == 0.5
    assert figures.best is None
    assert "Lower thresholds" in draw(figures)[3].summary
    # Settings, or the solutions' own numbers of steps, know better.
    assert not measured(cut, all_steps=True).cut_off
    assert not measure([Judged.of(one, len(one.rewards)) for one in cut]).cut_off
    assert measure([Judged.of(one, len(one.rewards) + 1) for one in cut]).cut_off


def test_chains_that_do_not_fit_the_rewards_are_left_out():
    odd = verdict("a", [[0.9, 0.2]] * 2, label=1)
    odd.chains[1].pop()
    assert Judged.of(odd).chains == []


def test_no_step_judged():
    figures = measured([verdict("a", [])])
    assert [bool(chart.missing) for chart in draw(figures)] == [True] * 4


def test_different_thresholds():
    figures = measured([*VERDICTS, verdict("e", [[0.6, 0.9]] * 2, label=-1, threshold=0.7)])
    assert figures.threshold is None
    assert "different thresholds" in figures.no_by_n
    assert not draw(figures)[0].rules


@pytest.mark.parametrize("highest", [0, 1, 7, 23, 99, 100, 101, 12345])
def test_round_steps_reach_the_highest(highest):
    steps = round_steps(highest)
    assert steps[0] == 0
    assert steps[-1] >= highest
    assert 2 <= len(steps) <= 6
    assert len({b - a for a, b in itertools.pairwise(steps)}) == 1


def test_shapes_stay_within_the_drawing():
    for chart in draw(measured(VERDICTS)):
        for bar in chart.bars:
            assert chart.left <= bar.x <= bar.x + bar.width <= chart.right
            assert chart.top <= bar.y <= bar.y + bar.height <= chart.bottom + 0.01
        for point in chart.points:
            assert chart.left <= point.x <= chart.right
            assert chart.top <= point.y <= chart.bottom
        assert len({len(row) for row in chart.rows} | {len(chart.header)}) == 1
