"""The guide of a search for the first error, read from verdicts."""

from __future__ import annotations

import tracemalloc

import pytest

from genprm_trl.errors import DataError
from genprm_trl.labeling.guide import Guide, guess_of
from genprm_trl.records import Solution, StepJudgement, Verdict
from genprm_trl.rows.jsonl import write_jsonl


def verdict(rewards, *, id="s", status="ok", solution=None):
    chains = [[StepJudgement("", reward, status, [], 1) for reward in rewards]]
    wrong = (step for step, reward in enumerate(rewards) if reward < 0.5)
    digest = "" if solution is None else solution.digest
    return Verdict(id, list(rewards), next(wrong, -1), chains, solution_digest=digest)


@pytest.mark.parametrize(
    ("rewards", "status", "guess"),
    [
        ([0.9, 0.4, 0.1], "ok", 1),
        ([0.2], "ok", 0),
        ([0.9, 0.7, 0.8], "ok", 1),  # the answer is wrong: one of the steps is, too
        ([0.9, 0.4], "error", None),
        ([0.9, 0.4], "no_verdict", None),
        ([], "ok", None),
    ],
)
def test_what_a_verdict_says_of_the_first_wrong_step(rewards, status, guess):
    assert guess_of(verdict(rewards, status=status)) == guess


def test_the_verdicts_of_a_file(tmp_path):
    solutions = [Solution(f"s{n}", "What?", ["one", "two", f"end {n}"]) for n in range(3)]
    other = Solution("s1", "What?", ["one", "another"])
    rewards = {"s0": [0.9, 0.1, 0.9], "s1": [0.3], "s2": [0.9, 0.9, 0.9]}
    verdicts = [verdict(rewards[s.id], id=s.id, solution=s) for s in solutions]
    path = tmp_path / "verdicts.jsonl"
    write_jsonl(path, verdicts)
    guide = Guide(path)
    assert [guide(solution) for solution in solutions] == [1, 0, 0]
    for solution in solutions:
        guide.check(solution)
    with pytest.raises(DataError, match=r"verdicts.jsonl: holds a verdict on 's1' about another text"):
        guide.check(other)
    with pytest.raises(DataError, match=r"verdicts.jsonl: holds no verdict on 'new'"):
        guide.check(Solution("new", "What?", ["one"]))

    # The order in which verdicts were finished decides nothing; what they say does.
    write_jsonl(path, verdicts[::-1])
    assert Guide(path).digest == guide.digest
    write_jsonl(path, [verdict([0.9, 0.9, 0.1], id="s0", solution=solutions[0]), *verdicts[1:]])
    assert Guide(path).digest != guide.digest


def test_verdicts_do_not_stay_in_memory(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    text = StepJudgement("why " * 500, 0.9, "ok", [], 1)
    write_jsonl(path, (Verdict(f"s{n}", [0.9], -1, [[text]]) for n in range(4000)))
    tracemalloc.start()
    guide = Guide(path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert guide(Solution("s17", "What?", ["one"])) == 0
    assert peak < 2**20 < path.stat().st_size / 4
    assert kept < 4000 * 200
