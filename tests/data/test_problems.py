"""Problems and groups of solutions from rows of every kind."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from genprm_trl.data.problems import Problem, read_groups, read_problems
from genprm_trl.errors import ConfigError, DataError
from tests.helpers.coin_generator import rows, solution
from tests.helpers.paths import SAMPLES

SOLUTIONS = (
    solution("s0", "well well well", True),
    solution("s1", "well worse badly", False),
    solution("s2", "well hopelessly well", False),
)


def test_problems_of_known_datasets():
    gsm8k = list(read_problems(str(SAMPLES / "gsm8k_sample.jsonl")))
    assert all(problem.answer and "####" not in problem.answer for problem in gsm8k)
    math = list(read_problems(str(SAMPLES / "math_sample.jsonl")))
    assert math[0].answer == "\\frac{5}{6}"
    assert all(problem.text and problem.answer for problem in math)
    # Several solutions of one problem are one problem.
    sampled = [json.loads(line) for line in (SAMPLES / "gsm8k_solutions_sample.jsonl").read_text().splitlines()]
    assert len(list(read_problems(sampled + sampled))) == len(sampled)


def test_rows_of_a_problem_and_its_answer():
    rows = [
        {"id": 7, "problem": "One?", "answer": "1"},
        {"question": "Two?", "answer": 2},
        {"problem": "One?", "answer": "1", "id": "again"},
    ]
    assert list(read_problems(rows)) == [Problem("7", "One?", "1"), Problem("problem-2", "Two?", "2")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "One?", "answer": "2"}, "row 2, field 'answer': row 1 has the same problem with another answer"),
        ({"id": "a", "problem": "Two?", "answer": "2"}, "row 2, field 'id': 'a' is the id of row 1 already"),
        ({"problem": "Two?", "answer": " "}, "row 2, field 'answer'"),
        ({"problem": " ", "answer": "2"}, "row 2, field 'problem'"),
        ({"problem": "Two?"}, "row 2, field 'answer'.*reference answer"),
        ({"question": "Two?", "subject": "sums"}, "row 2, field 'answer'.*reference answer"),
        ({"problem": 2, "answer": "2"}, "row 2, field 'problem'.*must be a string"),
        ({"problem": "Two?", "steps": ["x"]}, "row 2, field 'answer'.*reference answer"),
    ],
)
def test_bad_problems_are_named_or_skipped(row, message):
    rows = [{"id": "a", "problem": "One?", "answer": "1"}, row, {"problem": "Three?", "answer": "3"}]
    with pytest.raises(DataError, match=message):
        list(read_problems(rows))
    stream = read_problems(rows, skip_bad_rows=True)
    for _ in range(2):
        assert [problem.answer for problem in stream] == ["1", "3"]
        assert stream.bad_rows == 1


def test_no_problem_at_all():
    with pytest.raises(DataError, match="is empty"):
        list(read_problems([]))
    with pytest.raises(ConfigError, match="limit"):
        read_problems([], limit=0)


def test_a_problem_whose_id_was_taken_is_not_known_by_its_text():
    rows = [
        {"id": "a", "problem": "One?", "answer": "1"},
        {"id": "a", "problem": "Two?", "answer": "2"},
        {"id": "b", "problem": "Two?", "answer": "2"},
    ]
    assert [problem.id for problem in read_problems(rows, skip_bad_rows=True)] == ["a", "b"]


def test_a_row_of_candidates_is_one_problem_under_its_own_id():
    row = {"id": "q", "problem": "One?", "answer": "1", "candidates": ["#### 1", "#### 2"]}
    assert list(read_problems([row])) == [Problem("q", "One?", "1")]


def test_solutions_of_a_problem_come_together():
    other = solution("s3", "well", True, problem="another one")
    groups = read_groups(rows(*SOLUTIONS, other))
    for _ in range(2):  # as often as it is iterated over
        assert [[s.id for s in group.solutions] for group in groups] == [["s0", "s1", "s2"], ["s3"]]
    assert [group.id for group in read_groups(rows(*SOLUTIONS, other), limit=1)] == ["s0"]
    [before, _] = groups
    [after, _] = read_groups(rows(*SOLUTIONS[:2], replace(SOLUTIONS[2], steps=["x"]), other))
    assert before.digest != after.digest


def test_a_solution_without_a_reference_answer_is_named():
    without = replace(SOLUTIONS[1], answer=None)
    with pytest.raises(DataError, match="solution 's1' has no reference answer"):
        list(read_groups(rows(SOLUTIONS[0], without)))
    groups = read_groups(rows(SOLUTIONS[0], without), skip_bad_rows=True)
    assert [len(group.solutions) for group in groups] == [1]
    assert groups.bad_rows == 1
