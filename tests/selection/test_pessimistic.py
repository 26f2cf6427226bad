"""Pessimistic verification against the formula worked by hand, and brute force over all subsets."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm_trl.selection.pessimistic import pessimistic_accuracy, pessimistic_values


def test_the_formula_by_hand():
    # N = 3, M = 2: ln 6; the answer 5 has four verifications, 4 has two.
    values = pessimistic_values(["4", "5", "5"], [[0.9, 0.7], [0.8, 0.6], [0.7, 0.9]], alpha=0.3)
    assert values == {
        "4": pytest.approx(0.8 - 0.3 * math.log(6) / 3),
        "5": pytest.approx(0.75 - 0.3 * math.log(6) / 5),
    }
    assert max(values, key=values.__getitem__) == "5"
    best_mean = pessimistic_values(["4", "5", "5"], [[0.9, 0.7], [0.8, 0.6], [0.7, 0.9]], alpha=0)
    assert max(best_mean, key=best_mean.__getitem__) == "4"
    # A large penalty is a majority vote.
    assert pessimistic_values(["a", "b", "b"], [[1], [0], [0]], alpha=100)["b"] == pytest.approx(
        -100 * math.log(3) / 3
    )
    # What has no answer is not chosen, and what it cost is counted all the same.
    assert pessimistic_values([None, "a"], [[1.0], [0.5]], alpha=1) == {"a": pytest.approx(0.5 - math.log(2) / 2)}


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(0, 4)), min_size=1, max_size=5),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.data(),
)
def test_the_accuracy_is_the_mean_over_all_subsets(pool, verifications, alpha, data):
    answers = [answer for answer, _ in pool]
    scores = [score / 4 for _, score in pool]
    correct = [answer == "a" for answer in answers]
    n = data.draw(st.integers(1, len(pool)))
    outcomes = []
    for subset in itertools.combinations(range(len(pool)), n):
        values = pessimistic_values([answers[i] for i in subset], [[scores[i]] * verifications for i in subset], alpha)
        best = max(values.values(), default=0.0)
        tied = [answer for answer, value in values.items() if value >= best - 1e-9]
        outcomes.append(float(np.mean([answer == "a" for answer in tied])) if tied else 0.0)
    found = pessimistic_accuracy(answers, correct, scores, n, verifications=verifications, alpha=alpha)
    assert found == pytest.approx(np.mean(outcomes))


def test_drawn_subsets_repeat_with_the_seed():
    answers = [str(k % 5) for k in range(40)]
    correct = [answer == "3" for answer in answers]
    scores = [(7 * k % 11) / 11 for k in range(40)]

    def estimate(**options: int) -> float:
        return pessimistic_accuracy(answers, correct, scores, 8, **options)

    assert estimate(seed=1) == estimate(seed=1) != estimate(seed=2)
    assert estimate(max_subsets=300) == pytest.approx(estimate(max_subsets=20_000), abs=0.08)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="1 candidates for 2 answers"):
        pessimistic_values(["a", "b"], [[1]])
    with pytest.raises(ValueError, match="no verification"):
        pessimistic_values(["a"], [[]])
    with pytest.raises(ValueError, match="alpha"):
        pessimistic_values(["a"], [[1]], alpha=-1)
    with pytest.raises(ValueError, match="n must be"):
        pessimistic_accuracy(["a"], [True], [1], 2)
    with pytest.raises(ValueError, match="verifications"):
        pessimistic_accuracy(["a"], [True], [1], 1, verifications=0)
