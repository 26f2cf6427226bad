"""Verifiers compared on the same solutions: by hand, and against resampling as it is defined."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from genprm_trl.metrics.comparison import COMPARED, compare_verdicts
from genprm_trl.metrics.processbench import calibration_error, processbench_scores, step_auroc
from tests.helpers.verdict_examples import verdict

LABELS = {"a": 1, "b": -1, "c": 0, "d": -1}
FIRST = {"a": [0.9, 0.2], "b": [0.9, 0.8], "c": [0.6], "d": [0.3, 0.9]}
SECOND = {"a": [0.8, 0.6], "b": [0.7, 0.9], "c": [0.1], "d": [0.9, 0.9]}


def verdicts(rewards, labels=LABELS):
    return [verdict(id, [each], label=labels[id]) for id, each in rewards.items()]


def test_by_hand():
    found = compare_verdicts([verdicts(FIRST), verdicts(SECOND)], resamples=20)
    assert (found.labelled, found.steps, found.unshared) == (4, 7, 0)
    first, second = found.scores
    assert {name: first[name].value for name in COMPARED[:3]} == {"error_acc": 50, "correct_acc": 50, "f1": 50}
    assert second["f1"].value == pytest.approx(200 / 3)  # 50 and 100
    assert [each["step_auroc"].value for each in found.scores] == pytest.approx([90, 100])
    assert [each["step_ece"].value for each in found.scores] == pytest.approx([100 * 2.0 / 7, 100 * 1.5 / 7])
    gap = found.differences[0, 1]
    assert {name: gap[name].value for name in ("f1", "step_auroc", "step_ece")} == pytest.approx(
        {"f1": -50 / 3, "step_auroc": -10, "step_ece": 50 / 7}
    )
    assert found.agreement == [[100, 25], [25, 100]]
    assert found.only_right == [[0, 1], [2, 0]]


def test_differences_are_over_the_same_resamples():
    columns = [verdicts(FIRST), verdicts(SECOND)]
    found = compare_verdicts(columns, resamples=60, seed=3)
    rng, gaps = np.random.default_rng(3), {name: [] for name in COMPARED}
    for _ in range(60):
        chosen = rng.integers(4, size=4)
        scores = []
        for column in columns:
            rows = [column[place] for place in chosen]
            steps = [(step != row.label, reward) for row in rows for step, reward in enumerate(row.rewards)]
            of_rows = processbench_scores([row.label for row in rows], [row.prediction for row in rows])
            of_rows["step_auroc"] = step_auroc(*zip(*steps, strict=True))
            of_rows["step_ece"] = calibration_error(*zip(*steps, strict=True))
            scores.append(of_rows)
        for name in COMPARED:
            if None not in (scores[0][name], scores[1][name]):
                scale = 1 if name in COMPARED[:3] else 100
                gaps[name].append(scale * (scores[0][name] - scores[1][name]))
    for name in COMPARED:
        gap = found.differences[0, 1][name]
        assert [gap.low, gap.high] == pytest.approx(np.percentile(gaps[name], [2.5, 97.5]).tolist()), name


def test_what_is_hard_for_both_makes_no_difference():
    many = {f"{id}{n}": LABELS[id] for n, id in itertools.product(range(10), LABELS)}
    columns = [verdicts({id: FIRST[id[0]] for id in many}, many) for _ in range(2)]
    found = compare_verdicts(columns, resamples=100)
    assert found.scores[0]["f1"].low < 45 < 55 < found.scores[0]["f1"].high
    for gap in found.differences[0, 1].values():
        assert (gap.value, gap.low, gap.high) == (0, 0, 0)


def test_steps_that_one_did_not_judge_are_in_no_score_of_rewards():
    cut = {**FIRST, "d": [0.3]}
    found = compare_verdicts([verdicts(cut), verdicts(SECOND)], resamples=5)
    assert (found.steps, found.unshared) == (6, 1)
    assert found.scores[0]["step_auroc"].value == pytest.approx(100 * 7 / 8)
    assert found.scores[1]["f1"].value == pytest.approx(200 / 3)


def test_a_step_without_a_verdict_is_wrong_and_agrees_with_nothing():
    first, second = verdicts(FIRST), verdicts(SECOND)
    for one in (first[1], second[1]):
        one.chains[0][0].status = "truncated"
    found = compare_verdicts([first, second], resamples=5)
    assert found.agreement == [[75, 0], [0, 75]]
    assert found.scores[0]["correct_acc"].value == 0


def test_without_labels_there_is_agreement_alone():
    first, second = verdicts(FIRST), verdicts(SECOND)
    for one in (*first, *second):
        one.label = None
    found = compare_verdicts([first, second])
    assert (found.labelled, found.scores, found.differences) == (0, [], {})
    assert found.agreement[0][1] == 25
    first[1].label = -1
    assert math.isnan(compare_verdicts([first, second], resamples=5).scores[0]["f1"].value)
