"""Pools of candidates: bad rows, ids, and how candidates are graded."""

from __future__ import annotations

import gzip
import json

import pytest

from genprm_trl.data.pools import grade_pool, read_pools, vote_groups
from genprm_trl.data.solutions import load_solutions
from genprm_trl.errors import DataError


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "p", "answer": "1", "candidates": []}, "field 'candidates': must hold at least one"),
        ({"problem": "p", "answer": "1", "candidates": [3]}, r"field 'candidates\[0\]'"),
        ({"problem": "p", "answer": "1", "candidates": [{"steps": []}]}, r"field 'candidates\[0\]\.steps'"),
        ({"problem": "p", "candidates": ["a"]}, "field 'answer': is missing"),
        ({"answer": "1", "candidates": ["a"]}, "field 'question'"),
    ],
)
def test_unusable_rows_are_named(tmp_path, row, message):
    path = tmp_path / "pool.jsonl"
    path.write_text(json.dumps({"problem": "q", "answer": "1", "candidates": ["#### 1"]}) + "\n" + json.dumps(row))
    with pytest.raises(DataError, match=rf"row 2, {message}"):
        read_pools(path)


def test_an_answer_that_changes_is_named():
    rows = [{"problem": "1+1?", "answer": answer, "candidates": ["#### 2"]} for answer in ("2", "3")]
    with pytest.raises(DataError, match="row 2, field 'answer': is '3', and an earlier row has '2'"):
        read_pools(rows)


def test_candidates_have_the_ids_that_the_verifier_gives_them(tmp_path):
    path = tmp_path / "pool.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"problem": "1+1?", "answer": "2", "candidates": ["#### 2", "#### 3"]}\n'))
    [pool] = read_pools(path)
    assert pool.ids == [solution.id for solution in load_solutions(path)] == ["pool-1-0", "pool-1-1"]


def test_what_is_known_of_a_candidate_is_believed():
    assert grade_pool(["#### 2", "#### 3"], "2", [False, None]) == ([False, False], [1, 2])
    assert grade_pool(["\\boxed{\\frac12}", "\\boxed{0.5}"], "1/2") == ([True, True], [0, 0])


@pytest.mark.parametrize(
    ("answers", "votes"),
    [
        ([r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 7 \\ 2 \end{pmatrix}", "2"], [0, 1, 2]),
        (["48 dollars", "48"], [0, 0]),
        (["1 1/2", "11/2", "1.5"], [0, 1, 0]),
        (["0<x<1", "(0,1)"], [0, 0]),
        (["(0,1)", "0<x<1"], [0, 0]),
        (["50%", "0.5", None, "50"], [0, 1, None, 0]),
        (["0.5", "50", "50%"], [0, 1, 1]),
    ],
)
def test_votes_by_hand(answers, votes):
    assert vote_groups(answers) == votes
