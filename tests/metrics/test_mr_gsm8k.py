"""MR-GSM8K's scores and the agreement of judges, by hand."""

import math

import pytest

from genprm_trl.metrics.mr_gsm8k import cohen_kappa, matthews, mr_score


def test_matthews_by_hand():
    assert matthews(5, 5, 0, 0) == 1
    assert matthews(0, 0, 5, 5) == -1
    # 6 of 8 right ones and 3 of 4 wrong ones are judged so: (6 * 3 - 1 * 2) / sqrt(7 * 8 * 4 * 5).
    assert matthews(6, 3, 1, 2) == pytest.approx(16 / math.sqrt(1120))


@pytest.mark.parametrize("counts", [(0, 4, 0, 0), (0, 2, 2, 0), (3, 0, 0, 0), (3, 0, 2, 0), (0, 0, 0, 0)])
def test_a_root_of_zero_gives_zero(counts):
    assert matthews(*counts) == 0


def test_mr_score_is_the_benchmarks():
    # Rows of its table, zero-shot.
    for mcc, step, reason, published in ((63.3, 48.8, 46.3, 50.5), (51.3, 38.9, 32.7, 38.3), (16.2, 30.6, 20.3, 22.6)):
        assert 100 * mr_score(mcc / 100, step / 100, reason / 100) == pytest.approx(published, abs=0.06)
    assert mr_score(-0.5, 0.2) == pytest.approx(0.06)
    assert mr_score(1, 1) == 0.5


def test_kappa_by_hand():
    people, judge = [True] * 5 + [False] * 5, [True] * 6 + [False] * 4
    # They agree on 9 of 10; chance gives 0.5 * 0.6 + 0.5 * 0.4.
    assert cohen_kappa(people, judge) == pytest.approx(0.8)
    assert cohen_kappa([True, False], [False, True]) == -1
    assert math.isnan(cohen_kappa([True, True], [True, True]))
    assert cohen_kappa([True, False], [True, True]) == 0
    with pytest.raises(ValueError, match="at least one"):
        cohen_kappa([], [])
