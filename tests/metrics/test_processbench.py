"""Metrics against hand-worked numbers and independent brute force."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm_trl.metrics.processbench import (
    best_step_accuracy,
    best_threshold,
    calibration_error,
    processbench_scores,
    step_auroc,
)
from genprm_trl.records import prediction_from_rewards

# ---------------------------------------------------------------------------------------------------------------------
# ProcessBench


def test_processbench_scores_by_hand():
    # Four with an error: 3 right (75 %). Five without: 2 right (40 %). F1 = 2 * 75 * 40 / 115.
    labels = [0, 1, 2, 3, -1, -1, -1, -1, -1]
    predictions = [0, 1, 2, 2, -1, -1, 0, None, 4]
    scores = processbench_scores(labels, predictions)
    assert scores == {"error_acc": 75.0, "correct_acc": 40.0, "f1": pytest.approx(6000 / 115)}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 3), st.none() | st.integers(-1, 3))))
def test_processbench_scores_by_the_definition(rows):
    scores = processbench_scores([label for label, _ in rows], [prediction for _, prediction in rows])
    error = [prediction == label for label, prediction in rows if label != -1]
    correct = [prediction == label for label, prediction in rows if label == -1]
    assert scores["error_acc"] == (pytest.approx(100 * np.mean(error)) if error else None)
    assert scores["correct_acc"] == (pytest.approx(100 * np.mean(correct)) if correct else None)
    if not (error and correct):
        assert scores["f1"] is None
    elif not (any(error) and any(correct)):
        assert scores["f1"] == 0
    else:
        assert scores["f1"] == pytest.approx(2 / (1 / scores["error_acc"] + 1 / scores["correct_acc"]))
    json.dumps(scores, allow_nan=False)


def test_unreadable_prediction_is_wrong_for_both_classes():
    assert processbench_scores([0, -1], [None, None]) == {"error_acc": 0.0, "correct_acc": 0.0, "f1": 0.0}


@pytest.mark.parametrize("label", [-2, 1.0, True, math.nan, None, "0"])
def test_bad_label_is_refused(label):
    with pytest.raises(ValueError, match="label 1 must be an integer"):
        processbench_scores([0, label], [0, 0])


def test_different_lengths_are_refused():
    with pytest.raises(ValueError, match="2 labels for 1 predictions"):
        processbench_scores([0, 1], [0])


@pytest.mark.parametrize(
    ("rewards", "threshold", "prediction"),
    [([0.9, 0.4, 0.1], 0.5, 1), ([0.5, 0.5], 0.5, -1), ([], 0.5, -1), ([0.4], 0.3, -1), ([0.2, 0.9], 0.3, 0)],
)
def test_prediction_is_the_first_step_below(rewards, threshold, prediction):
    assert prediction_from_rewards(rewards, threshold) == prediction


def test_what_has_no_verdict_is_right_at_no_threshold():
    nan = math.nan
    assert best_threshold([-1, -1, 0, 1], [[0.9, 0.8], [nan, 0.9], [0.2], [0.9, 0.1, nan]]) == (
        0.5,  # between 0.2 and 0.8
        pytest.approx(200 / 3),
    )
    assert best_threshold([-1, 0], [[nan], [nan]]) == (0.5, 0.0)
    assert best_step_accuracy([True, False, True], [0.9, 0.1, nan]) == (0.5, 2 / 3)
    assert best_step_accuracy([True], [nan]) == (0.5, 0.0)


def test_nan_reward_is_refused():
    with pytest.raises(ValueError, match="step 1 is NaN"):
        prediction_from_rewards([0.9, math.nan])


reward = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), st.lists(reward, min_size=3, max_size=3)), max_size=6))
def test_best_threshold_beats_every_other(rows):
    rows = [*rows, (-1, [0.75]), (0, [0.5])]
    labels, rewards = zip(*rows, strict=True)
    threshold, f1 = best_threshold(labels, rewards)

    def f1_at(value):
        return processbench_scores(labels, [prediction_from_rewards(row, value) for row in rewards])["f1"]

    assert f1 == pytest.approx(f1_at(threshold))
    # A grid finer than the rewards' spacing meets every interval between them.
    assert f1 == pytest.approx(max(f1_at(value) for value in np.linspace(-0.05, 1.05, 111)))
    if 0 < threshold < 1:  # rewards of another batch differ by rounding
        assert f1_at(threshold - 1e-6) == f1_at(threshold + 1e-6) == f1_at(threshold)


def test_best_threshold_needs_both_classes():
    with pytest.raises(ValueError, match="both"):
        best_threshold([0], [[0.1]])
    with pytest.raises(ValueError, match="solution 0 has 1 rewards"):
        best_threshold([1, -1], [[0.1], [0.2]])


# ---------------------------------------------------------------------------------------------------------------------
# Step rewards as probabilities


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), reward), min_size=1))
def test_auroc_is_the_share_of_pairs_in_order(steps):
    right = [value for label, value in steps if label]
    wrong = [value for label, value in steps if not label]
    auroc = step_auroc([label for label, _ in steps], [value for _, value in steps])
    if not right or not wrong:
        assert auroc is None
    else:
        pairs = [1.0 if r > w else 0.5 if r == w else 0.0 for r in right for w in wrong]
        assert auroc == pytest.approx(sum(pairs) / len(pairs))


def test_auroc_by_hand():
    # Right: 0.8, 0.5, 0.5. Wrong: 0.5, 0.2. Of six pairs four are in order and two are tied: 5 / 6.
    assert step_auroc([True, False, True, True, False], [0.8, 0.5, 0.5, 0.5, 0.2]) == pytest.approx(5 / 6)
    assert step_auroc([True, False], [0.3, 0.3]) == 0.5
    assert step_auroc([False, True], [0.9, 0.1]) == 0
    assert step_auroc([1, 0, 1], [1, 0, 1]) == 1
    assert step_auroc([True], [0.5]) is None
    with pytest.raises(ValueError, match="NaN"):
        step_auroc([True, False], [math.nan, 0.5])
    with pytest.raises(ValueError, match="1 labels for 2 rewards"):
        step_auroc([True], [0.5, 0.5])


def test_calibration_error_by_hand():
    # Two bins: {0.1, 0.3}: mean 0.2, none right, gap 0.2. {0.9, 1.0}: mean 0.95, half right, gap 0.45.
    labels, probabilities = [False, False, True, False], [0.1, 0.3, 0.9, 1.0]
    assert calibration_error(labels, probabilities, bins=2) == pytest.approx(0.5 * 0.2 + 0.5 * 0.45)
    assert calibration_error([], []) is None
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        calibration_error([True], [math.nan])


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])), min_size=1, max_size=8))
def test_best_step_accuracy_is_the_best_of_all_thresholds(steps):
    labels, rewards = zip(*steps, strict=True)

    def accuracy(threshold):
        return np.mean([(reward >= threshold) == label for label, reward in steps])

    threshold, best = best_step_accuracy(labels, rewards)
    assert best == pytest.approx(accuracy(threshold))
    assert best == pytest.approx(max(accuracy(t) for t in (0, 0.1, 0.3, 0.5, 0.6, 0.8, 1.0, 1.1)))


def test_best_step_accuracy_by_hand():
    assert best_step_accuracy([True, True, False], [0.9, 0.3, 0.2]) == (0.3, 1.0)
    assert best_step_accuracy([True, False], [0.9, 0.2]) == (0.5, 1.0)
    for labels, rewards in (([], []), ([True], [0.1, 0.2])):
        with pytest.raises(ValueError, match="at least one"):
            best_step_accuracy(labels, rewards)
