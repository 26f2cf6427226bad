"""Selection from a pool against hand-worked numbers and brute force over all subsets and orders."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genprm_trl.selection.accuracies import (
    best_of_n_accuracy,
    pass_at_k,
    pool_accuracies,
    subset_sizes,
    vote_accuracy,
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=7), st.data())
def test_best_of_n_is_the_mean_over_all_subsets(pool, data):
    n = data.draw(st.integers(1, len(pool)))
    outcomes = []
    for subset in itertools.combinations(pool, n):
        best = max(score for score, _ in subset)
        tied = [correct for score, correct in subset if score == best]
        outcomes.append(sum(tied) / len(tied))
    scores, correct = zip(*pool, strict=True)
    assert best_of_n_accuracy(scores, correct, n) == pytest.approx(np.mean(outcomes))


def test_best_of_n_by_hand():
    assert best_of_n_accuracy([0.9, 0.5, 0.1], [True, False, True], 1) == pytest.approx(2 / 3)
    assert best_of_n_accuracy([0.9, 0.5, 0.1], [True, False, True], 3) == 1
    assert best_of_n_accuracy([0.5] * 4, [True, False, False, False], 3) == 0.25
    # A pool of 1,024 of which the best is right: it is in a subset of 64 with chance 1/16.
    assert best_of_n_accuracy(range(1024), [False] * 1023 + [True], 64) == pytest.approx(1 / 16)


@settings(deadline=None)
@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_mean_over_all_subsets(samples, data):
    correct, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    pool = [True] * correct + [False] * (samples - correct)
    assert pass_at_k(samples, correct, k) == pytest.approx(np.mean([any(s) for s in itertools.combinations(pool, k)]))
    # A perfect scorer reaches it, no scorer exceeds it.
    assert pass_at_k(samples, correct, k) == pytest.approx(best_of_n_accuracy(pool, pool, k))


@pytest.mark.parametrize(("scores", "correct", "n"), [([1], [True], 0), ([1], [True], 2), ([1, 2], [True], 1)])
def test_best_of_n_refuses(scores, correct, n):
    with pytest.raises(ValueError):
        best_of_n_accuracy(scores, correct, n)


def test_selection_refuses_nonsense():
    with pytest.raises(ValueError, match="NaN"):
        best_of_n_accuracy([math.nan], [True], 1)
    with pytest.raises(ValueError):
        pass_at_k(4, 5, 1)


def majority_vote(answers, weights):
    """The answer with the greatest sum of weights; the first among equals; None if nobody votes."""
    votes = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            votes.setdefault(answer, []).append(weight)
    # fsum: the winner must not depend on the order of the votes.
    return max(votes, key=lambda answer: math.fsum(votes[answer]), default=None)


_CANDIDATES = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(0, 4)), min_size=1, max_size=5)


@settings(deadline=None, max_examples=60)
@given(_CANDIDATES, st.booleans(), st.data())
@example([("a", 0), ("a", 0), ("b", 0)], True, None)  # tied, with more votes for one
def test_a_vote_is_the_mean_over_all_ordered_subsets(pool, weighted, data):
    n = data.draw(st.integers(1, len(pool))) if data else len(pool)
    answers = [answer for answer, _ in pool]
    weights = [weight / 4 for _, weight in pool] if weighted else None
    correct = [answer == "a" for answer in answers]
    outcomes = []
    for order in itertools.permutations(range(len(pool)), n):  # the first among equals wins, in every order
        winner = majority_vote([answers[i] for i in order], [(weights or [1] * len(pool))[i] for i in order])
        outcomes.append(winner == "a")
    # Weight 0 is a vote, too, if nobody has more; `majority_vote` sees it the same way.
    assert vote_accuracy(answers, correct, n, weights) == pytest.approx(np.mean(outcomes))


def test_drawn_subsets_have_no_bias():
    answers = ["a"] * 5 + ["b"] * 4 + ["c"] * 3 + [None] * 2
    correct = [answer == "a" for answer in answers]
    weights = np.linspace(0.1, 1, len(answers)).tolist()
    for weight in (None, weights):
        exact = vote_accuracy(answers, correct, 6, weight, max_subsets=10_000)  # 3,003 subsets
        drawn = [vote_accuracy(answers, correct, 6, weight, max_subsets=500, seed=seed) for seed in range(60)]
        error = np.std(drawn, ddof=1) / math.sqrt(len(drawn))
        assert 0 < error < 0.01
        assert abs(np.mean(drawn) - exact) < 4 * error


def test_votes_at_the_ends():
    assert vote_accuracy([None, None], [True, True], 2) == 0
    assert vote_accuracy(["a", "b", "b"], [True, False, False], 1) == pytest.approx(1 / 3)
    assert vote_accuracy(["a", "b", "b"], [True, False, False], 3) == 0
    assert vote_accuracy(["a", "b", "b"], [True, False, False], 3, [0.9, 0.2, 0.2]) == 1
    # 0.1 + 0.2 and 0.3 differ in floating point; they are tied all the same, and two of three orders begin with "a".
    assert vote_accuracy(["a", "a", "b"], [True, True, False], 3, [0.1, 0.2, 0.3]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("answers", "correct", "n", "weights"),
    [
        (["a"], [True], 0, None),
        (["a"], [True], 2, None),
        (["a"], [], 1, None),
        (["a"], [True], 1, [math.nan]),
        (["a"], [True], 1, [-0.1]),
        (["a"], [True], 1, [0.1, 0.2]),
    ],
)
def test_a_vote_refuses(answers, correct, n, weights):
    with pytest.raises(ValueError):
        vote_accuracy(answers, correct, n, weights)


def test_subset_sizes():
    assert subset_sizes(1) == [1]
    assert subset_sizes(4) == [1, 2, 4]
    assert subset_sizes(6) == [1, 2, 4, 6]
    with pytest.raises(ValueError):
        subset_sizes(0)


def test_every_way_to_choose_on_a_pool_by_hand():
    answers, correct = ["4", "5", "5", None], [True, False, False, False]
    rewards = [[0.9, 0.6], [0.5, 1.0], [0.2, 0.9], [0.1]]
    values = pool_accuracies(answers, correct, rewards, [1, 4])
    rules = ("min", "mean", "last", "product")
    names = {f"{way}_{rule}@{n}" for way in ("best", "weighted") for rule in rules for n in (1, 4)}
    assert values.keys() == names | {"random", "majority@1", "majority@4", "pass@1", "pass@4"}
    assert values["random"] == values["best_min@1"] == values["weighted_last@1"] == values["pass@1"] == 0.25
    assert values["pass@4"] == 1
    assert values["majority@4"] == 0
    # min 0.6 / 0.5 / 0.2, mean 0.75 / 0.75 / 0.55, last 0.6 / 1 / 0.9, product 0.54 / 0.5 / 0.18
    assert values["best_min@4"] == values["best_product@4"] == 1
    assert values["best_mean@4"] == 0.5  # a tie
    assert values["best_last@4"] == 0
    assert values["weighted_min@4"] == 0  # 0.6 against 0.5 + 0.2
    with pytest.raises(ValueError, match="rewards"):
        pool_accuracies(answers, correct, rewards[:2], [1])
