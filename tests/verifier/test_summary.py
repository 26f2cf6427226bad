"""The summary of verdicts: counts by hand, and scores only where there are labels."""

from __future__ import annotations

import pytest

from genprm_trl.records import CodeRound, Solution, StepJudgement, Verdict
from genprm_trl.verifier.summary import VerdictSummary
from tests.helpers.verdict_examples import summary_of


def verdict(id: str, prediction: int, label: int | None = None) -> Verdict:
    rounds = [CodeRound("print(1)", "1", "ok", 0.1), CodeRound("1/0", "…", "error", 0.1)]
    chains = [[StepJudgement("…", 0.9, "ok", rounds, 10), StepJudgement("…", 0.5, "fallback", [], 5)]] * 2
    return Verdict(id, [0.9, 0.5], prediction, chains, label)


def test_counts():
    summary = summary_of([verdict("a", -1), verdict("b", 1)])
    assert (summary.solutions, summary.chains, summary.flagged, summary.tokens) == (2, 4, 1, 60)
    assert summary.steps == {"ok": 4, "fallback": 4}
    assert summary.code_blocks == {"ok": 4, "error": 4}
    assert summary.scores() is None
    assert not any("ProcessBench" in line for line in summary.lines())


def test_a_verifier_that_writes_no_rationales():
    summary = summary_of([Verdict("a", [0.9, 0.2], 1, [], 1), Verdict("b", [0.9], -1, [], -1)])
    assert "step judgements    0" in summary.lines()
    assert summary.scores() == {"error_acc": 100.0, "correct_acc": 100.0, "f1": 100.0}
    scored = summary_of([Verdict("a", [0.9], -1, [[StepJudgement("", 0.9, "ok")]])])
    assert scored.lines() == ["solutions judged   1 (0 with a step judged wrong)", "step judgements    1 (ok 1)"]
    assert "rationale chains   2" in summary_of([verdict("a", -1)]).lines()


def test_scores_where_labels_are_known():
    summary = summary_of([verdict("a", -1, -1), verdict("b", 1, 1), verdict("c", 0, 1), verdict("d", 0)])
    assert summary.scores() == {"error_acc": 50.0, "correct_acc": 100.0, "f1": 200 / 3}
    assert "3 labelled" in summary.lines()[-1]


@pytest.mark.parametrize("status", ["no_verdict", "truncated"])
def test_what_has_no_verdict_counts_as_wrong(status):
    def judged(id: str, label: int, *statuses: str) -> Verdict:
        chains = [[StepJudgement("", 0.5 if each == status else 0.9, each) for each in statuses]]
        return Verdict(id, [judgement.reward for judgement in chains[0]], -1, chains, label)

    summary = VerdictSummary()
    right = Solution("b", "p", ["s", "t"], final_answer_correct=True)
    summary.add(judged("a", -1, "ok", "fallback"))
    summary.add(judged("b", -1, "ok", status), right)
    summary.add(judged("c", -1, status, status))
    summary.add(judged("d", 0, status, status))
    assert summary.scores() == {"error_acc": 0.0, "correct_acc": pytest.approx(100 / 3), "f1": 0.0}
    assert (summary.unread, summary.failed, summary.flagged, summary.is_failure) == (3, 0, 0, False)
    assert "without a verdict  3 of 4 solutions, counted as wrong" in summary.lines()
    assert summary.accepted == {True: (0, 1)}


@pytest.mark.parametrize(("said", "is_failure"), [(None, True), (0.0, False), (0.8, False)])
def test_what_is_said_of_the_whole_solution_is_a_verdict(said, is_failure):
    chain = [StepJudgement("", 0.5, "no_verdict"), StepJudgement("", 0.5, "no_verdict", solution_reward=said)]
    verdict = Verdict("a", [0.5, 0.5], -1, [chain])
    assert summary_of([verdict]).is_failure == verdict.is_unread == is_failure


def test_one_verdict_of_several_rationales_is_enough():
    chains = [[StepJudgement("", 0.5, "no_verdict")], [StepJudgement("", 0.9, "ok")]]
    assert summary_of([Verdict("a", [0.7], -1, chains, -1)]).scores()["correct_acc"] == 100.0


def test_steps_after_the_prediction_decide_nothing():
    chains = [[StepJudgement("", 0.9, "ok"), StepJudgement("", 0.1, "ok"), StepJudgement("", 0.5, "truncated")]]
    assert Verdict("a", [0.9, 0.1, 0.5], 1, chains, 1).scored_prediction == 1
    assert Verdict("a", [0.9, 0.9, 0.5], -1, chains, 1).scored_prediction is None


def test_one_class_alone_has_no_f1():
    assert "f1 undefined" in summary_of([verdict("a", -1, -1)]).lines()[-1]


def test_right_and_wrong_final_answers_are_told_apart():
    summary = VerdictSummary()
    for id, prediction, correct in (("a", -1, True), ("b", 1, True), ("c", -1, False), ("d", -1, None)):
        summary.add(verdict(id, prediction), Solution(id, "p", ["s"], final_answer_correct=correct))
    assert summary.accepted == {True: (1, 2), False: (1, 1)}
    assert "right final answer: no step flagged in 1 of 2" in summary.lines()
