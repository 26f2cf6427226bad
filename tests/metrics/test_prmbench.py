"""PRMBench's scores against hand-worked numbers, and against its repository's on the benchmark's own rows."""

import pytest

from genprm_trl.metrics.prmbench import count_steps, finds_first_error, prm_score, step_scores


def test_counts_by_hand():
    # Steps 2 and 4 are wrong; there is no step 9 and no step 0.
    errors = [2, 4, 9, 0]
    assert count_steps(errors, [True, True, False, False, True]) == (2, 1, 1, 1)
    # Without a judgement a step is misjudged, whatever it is.
    assert count_steps(errors, [None, None]) == (0, 1, 0, 1)
    assert count_steps([], [True, False]) == (1, 0, 0, 1)


def test_the_first_error_is_the_smallest_that_the_row_names():
    assert finds_first_error([3, 2], [True, False, True]) is True
    assert finds_first_error([3, 2], [False, True, False]) is False
    assert finds_first_error([2], [True, None]) is False
    # One that is not there hides the others.
    assert finds_first_error([0, 2], [True, False]) is None
    assert finds_first_error([5], [True, False]) is None
    assert finds_first_error([], [True, False]) is None


def test_scores_by_hand():
    # Right steps: 6 of 8 passed. Wrong steps: 3 of 4 found.
    scores = step_scores(6, 1, 3, 2)
    assert (scores["precision"], scores["recall"]) == (6 / 7, 6 / 8)
    assert (scores["negative_precision"], scores["negative_recall"]) == (3 / 5, 3 / 4)
    assert prm_score(6, 1, 3, 2) == pytest.approx(0.5 * 12 / 15 + 0.5 * 6 / 9)
    assert prm_score(6, 0, 0, 2, error_free=True) == pytest.approx(12 / 14)


def test_what_is_undefined_counts_as_the_repository_has_it():
    # Everything is judged right and nothing is wrong: negative F1 is -1, so half of the score is lost.
    assert step_scores(4, 0, 0, 0)["negative_f1"] == -1
    assert prm_score(4, 0, 0, 0) == 0
    # All is judged wrong, rightly: F1 is -1, and the score is not below 0.
    assert prm_score(0, 0, 4, 0) == 0
    # A wrong step that is passed: precision 0, recall -1, and so F1 is 0.
    assert step_scores(0, 1, 0, 0)["f1"] == 0
    assert prm_score(0, 0, 0, 0) == 0
