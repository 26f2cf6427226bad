"""Choosing from judged candidates, and the accuracies of doing so, against numbers worked by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from statistics import fmean

import pytest

from genprm_trl.data.pools import Pool, read_pools, vote_groups
from genprm_trl.errors import DataError
from genprm_trl.metrics.estimates import mean_estimate
from genprm_trl.records import Solution, StepJudgement, Verdict
from genprm_trl.selection.judged_pool import JudgedPool, choose, judged_pools, measure


def judged(candidates: Sequence[tuple[str, bool, list[list[float]]]], id: str = "p") -> JudgedPool:
    """Of (last step, right, step rewards of each chain)."""
    pool = Pool(id, f"problem {id}", "1")
    verdicts = []
    for number, (text, right, chains) in enumerate(candidates):
        pool.ids.append(f"{id}-{number}")
        pool.steps.append([f"step {number}", text])
        pool.correct.append(right)
        averaged = [math.fsum(rewards) / len(rewards) for rewards in zip(*chains, strict=True)]
        judgements = [[StepJudgement("", reward, "ok") for reward in chain] for chain in chains]
        verdicts.append(Verdict(pool.ids[-1], averaged, -1, judgements))
    return JudgedPool(pool, verdicts)


POOL = [
    ("The answer is 7.", False, [[0.9, 0.95]]),  # the best solution by its worst step
    ("The answer is 1.", True, [[0.8, 1.0]]),
    ("The answer is 1.0.", True, [[0.8, 0.7]]),
    ("I give up.", False, [[1.0, 0.1]]),
]


def test_a_candidate_without_a_verdict_is_never_chosen_for_its_reward():
    def verdict(status: str, reward: float) -> Verdict:
        return Verdict("a", [reward], -1, [[StepJudgement("", reward, status)]])

    pool = Pool("p", "1+1?", "2", ["p-0", "p-1"], [["#### 2"], ["#### 3"]], [True, False], [0, 1])
    judged = JudgedPool(pool, [verdict("truncated", 0.5), verdict("ok", 0.3)])
    assert judged.scores("min") == [0.0, 0.3]
    assert judged.verifications("min") == [[0.0], [0.3]]
    assert choose(judged, "best").index == 1
    assert measure([judged]).values["best_min"][2] == [0.0]


def test_each_rule_chooses_what_it_says():
    each = judged(POOL)
    assert each.answers == ["7", "1", "1.0", None]
    assert each.votes == [0, 1, 1, None]  # told by the answers alone
    assert choose(each, "best").index == 0
    assert choose(each, "best", "last").index == 1
    assert choose(each, "best", "mean").index == 0
    majority = choose(each, "majority")
    assert (majority.index, majority.value, majority.by_answer) == (1, 2.0, {"1": 2.0, "7": 1.0})
    weighted = choose(each, "weighted")
    assert (weighted.index, weighted.value) == (1, pytest.approx(1.5))
    # 7: 0.9 - a ln 4 / 2; 1: 0.75 - a ln 4 / 3. Equal at a = 0.649.
    assert choose(each, "pessimistic", alpha=0.6).index == 0
    assert choose(each, "pessimistic", alpha=0.7).index == 1
    value = choose(each, "pessimistic", alpha=0.7).value
    assert value == pytest.approx(0.75 - 0.7 * math.log(4) / 3)


def test_what_a_verifier_says_of_whole_solutions_can_choose():
    each = judged(POOL[:3])
    assert not each.has_solution_scores
    said = [[0.2, 0.4], [0.9, 0.1], [None, 0.3]]
    for verdict, rewards in zip(each.verdicts, said, strict=True):
        [chain] = verdict.chains
        verdict.chains = [[*chain[:-1], dataclasses.replace(chain[-1], solution_reward=reward)] for reward in rewards]
    assert each.scores("solution") == pytest.approx([0.3, 0.5, 0.15])
    assert each.verifications("solution") == [[0.2, 0.4], [0.9, 0.1], [0.0, 0.3]]
    assert choose(each, "best", "solution").index == 1
    assert choose(each, "weighted", "solution").value == pytest.approx(0.65)
    values = measure([each], score="solution").values
    assert values["best_solution"][3] == [1.0]
    assert "best_solution" not in measure([judged(POOL)]).values
    each.verdicts[1].chains[0][0].status = "error"
    assert each.scores("solution")[1] == 0


def test_rationales_that_say_nothing_of_the_solution_count_as_0():
    each = judged(POOL[:2])
    for verdict, rewards in zip(each.verdicts, ([0.9, None, None, None], [0.85] * 4), strict=True):
        verdict.chains = [[StepJudgement("", 0.9, "ok", solution_reward=reward)] for reward in rewards]
    assert each.scores("solution") == pytest.approx([0.225, 0.85])
    assert each.scores("solution") == pytest.approx([fmean(scores) for scores in each.verifications("solution")])
    assert choose(each, "best", "solution").index == choose(each, "pessimistic", "solution").index == 1


def test_ties_go_to_the_better_solution_and_no_answers_to_the_best():
    tied = judged([("The answer is 3.", False, [[0.2]]), ("The answer is 1.", True, [[0.6]])])
    assert choose(tied, "majority").index == 1
    assert choose(JudgedPool(tied.pool), "majority").index == 0  # the first, where nothing is judged
    silent = judged([("Hm.", False, [[0.2]]), ("Well.", False, [[0.6]])])
    for rule in ("best", "weighted", "majority", "pessimistic"):
        assert choose(silent, rule).index == 1
    with pytest.raises(ValueError, match="needs verdicts"):
        choose(JudgedPool(tied.pool), "best")


def test_pessimistic_verification_counts_rationales_not_averages():
    # The averaged rewards of the first are 0.9 at each step; each of its rationales doubts one step.
    each = judged(
        [("The answer is 2.", False, [[1.0, 0.8], [0.8, 1.0]]), ("The answer is 1.", True, [[0.85, 0.85]] * 2)]
    )
    assert choose(each, "best").index == 0
    assert each.verifications("min") == [[0.8, 0.8], [0.85, 0.85]]
    assert choose(each, "pessimistic").index == 1


def test_accuracies_by_hand():
    pools = [
        judged([("The answer is 1.", True, [[0.9], [0.1]]), ("The answer is 2.", False, [[0.4], [0.6]])], "a"),
        judged([("The answer is 2.", False, [[0.9], [0.9]]), ("The answer is 2.", False, [[0.1], [0.1]])], "b"),
    ]
    found = measure(pools, alpha=0)
    assert found.sizes == [1, 2]
    values = {way: {n: found.estimate(way, n).value for n in found.sizes} for way in found.values}
    assert values["random"] == {1: 25, 2: 25}
    assert values["pass"] == {1: 25, 2: 50}
    assert values["majority"] == {1: 25, 2: 25}
    assert values["best_min"] == {1: 25, 2: 25}  # both average to 0.5
    # One rationale each: the first right, the second wrong; both together are a tie.
    assert found.by_budget == {(1, 1): [0.5, 0], (2, 1): [0.5, 0], (1, 2): [0.5, 0], (2, 2): [0.5, 0]}
    gap = found.estimate("pass", 2, minus="random")
    assert (gap.value, gap.low, gap.high) == (25, 0, 50)
    assert found.to_dict()["accuracy"]["pass"]["2"]["value"] == 50


def test_a_smaller_pool_takes_part_with_all_it_has():
    pools = [
        judged([("The answer is 1.", True, [[0.9]])], "a"),
        judged([("The answer is 2.", False, [[0.4]]), ("The answer is 1.", True, [[0.5]])], "b"),
    ]
    found = measure(pools)
    assert found.values["best_min"] == {1: [1, 0.5], 2: [1, 1]}
    with pytest.raises(ValueError, match="no pools"):
        measure([])


def test_verdicts_are_found_by_id_and_text(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text('{"id": "q", "problem": "1?", "answer": "1", "candidates": ["#### 1", "#### 2", "#### 1"]}\n')
    [pool] = read_pools(path)
    one, two, three = pool.solutions()

    def verdict(id: str, solution: Solution, reward: float) -> Verdict:
        return Verdict(id, [reward], -1, [], solution_digest=solution.digest)

    verdicts = [verdict(one.id, one, 0.7), verdict("elsewhere", two, 0.2), verdict("unknown", one, 0.9)]
    [each] = judged_pools([pool], verdicts, file="v")  # the third is the first's text
    assert each.scores("min") == [0.7, 0.2, 0.7]
    with pytest.raises(DataError, match=r"v: has no verdict of 1 of the 3 candidates, the first one 'q-1'"):
        judged_pools([pool], verdicts[:1], file="v")
    with pytest.raises(DataError, match="'q-0' about another text"):
        judged_pools([pool], [verdict(one.id, Solution("x", "y", ["z"]), 0.7)], file="v")
    with pytest.raises(DataError, match="judges no step"):
        judged_pools([pool], [Verdict(s.id, [], -1, []) for s in (one, two, three)], file="v")


def test_pools_without_answers(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text(
        '{"problem": "1?", "candidates": ["#### 1", "#### 1.0", "?"]}\n'
        '{"problem": "2?", "candidates": [{"text": "#### 2", "final_answer_correct": true}]}\n'
    )
    with pytest.raises(DataError, match="row 1, field 'answer'"):
        read_pools(path)
    first, second = read_pools(path, need_answers=False)
    assert (first.answer, first.correct, first.votes) == (None, [], [0, 0, None])
    assert second.correct == [True]
    assert [pool.id for pool in read_pools(path, need_answers=False, limit=1)] == ["pool-1"]
    path.write_text(
        '{"id": "a", "problem": "p", "candidates": ["1"]}\n{"id": "a", "problem": "q", "candidates": ["1"]}'
    )
    with pytest.raises(DataError, match="row 2, field 'id': 'a-0' is the id of row 1 already"):
        read_pools(path, need_answers=False)


def test_votes_do_not_know_the_reference():
    assert vote_groups(["1/2", "0.5", None, "\\frac{1}{2}", "3"]) == [0, 0, None, 0, 1]


def test_mean_estimate():
    estimate = mean_estimate([1.0] * 30 + [0.0] * 10)
    assert estimate.value == 75
    # Binomial: the standard error is sqrt(0.75 * 0.25 / 40) = 6.8 points.
    assert estimate.stderr == pytest.approx(6.85, abs=0.6)
    assert estimate.low == pytest.approx(75 - 1.96 * 6.85, abs=2.6)
    assert mean_estimate([1.0, 0.0], seed=1) == mean_estimate([1.0, 0.0], seed=1)
    with pytest.raises(ValueError, match="no values"):
        mean_estimate([])
