"""The problems, the planted errors and the judge of the miniature world agree with one another."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm_trl.errors import DataError
from genprm_trl.miniature.families import FAMILIES
from genprm_trl.miniature.planted_errors import ARITHMETIC, ERROR_KINDS, STRUCTURAL, plant_error
from genprm_trl.miniature.word_problems import (
    Equation,
    Problem,
    check_solution,
    final_answer,
    gold_steps,
    random_problem,
    read_equation,
)
from genprm_trl.miniature.world import as_solution, make_problems, make_solutions

seeds = st.integers(0, 2**32)


@given(seeds)
@settings(max_examples=150, deadline=None)
def test_gold_solutions_state_true_equations_from_the_problem_to_its_answer(seed: int) -> None:
    rng = random.Random(seed)
    problem = random_problem(rng)
    steps = gold_steps(problem, rng)
    known = [int(number) for number in re.findall(r"\d+", problem.text)]
    assert sorted(known) == sorted(problem.quantities)
    for number, step in enumerate(steps, 1):
        assert step.startswith(f"Step {number}: ")
        # Evaluated by Python from the text alone, independently of the plan.
        left, _, right = re.search(r"(\d+ [-+*/] \d+) (=) (\d+)", step).groups()
        assert eval(left) == int(right)
        assert {int(operand) for operand in re.findall(r"\d+", left)} <= set(known)
        known.append(int(right))
    assert final_answer(steps) == str(problem.answer) == str(known[-1])
    assert check_solution(problem, steps) == -1
    assert all(0 < number <= 9999 for number in known)
    assert len(set(known)) == len(known)


@given(seeds)
@settings(max_examples=300, deadline=None)
def test_planted_error_is_wrong_at_its_label_and_carried_on_from_there(seed: int) -> None:
    rng = random.Random(seed)
    problem = random_problem(rng)
    equations, label, kind = plant_error(problem, rng)
    assert equations[:label] == list(problem.plan[:label])
    wrong, right = equations[label], problem.plan[label]
    assert wrong.result != right.result
    if kind in ARITHMETIC:
        assert not wrong.holds
        assert wrong.expression == right.expression
    else:
        assert kind in STRUCTURAL
        assert wrong.holds
        assert not wrong.same_expression(right)
        assert (wrong.operator != right.operator) == (kind == "operation")
    results = [equation.result for equation in equations]
    for index in range(label + 1, len(equations)):
        carried = equations[index]
        assert carried.holds
        left, operator, right_operand = problem.family.plan[index].expression.split()
        assert (carried.left, carried.operator, carried.right) == (
            problem.operand(left, results),
            operator,
            problem.operand(right_operand, results),
        )
    steps = [problem.step_text(index, equation, rng) for index, equation in enumerate(equations)]
    assert check_solution(problem, steps) == label


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_every_kind_of_error_can_be_had_alone(kind: str) -> None:
    solutions = make_solutions(40, seed=3, error_share=1.0, kinds=[kind])
    assert {solution.extra["error_kind"] for solution in solutions} == {kind}


def test_unknown_kind_of_error_is_refused() -> None:
    with pytest.raises(ValueError, match="typo"):
        make_solutions(1, error_share=1.0, kinds=["typo"])


def test_solutions_follow_the_schema_and_cover_the_world() -> None:
    solutions = make_solutions(400, seed=1, error_share=0.5)
    assert len({solution.id for solution in solutions}) == 400
    assert {solution.extra["family"] for solution in solutions} == {family.name for family in FAMILIES}
    assert {solution.extra["error_kind"] for solution in solutions} == {None, *ERROR_KINDS}
    assert 150 < sum(solution.label == -1 for solution in solutions) < 250
    for solution in solutions:
        problem = Problem.from_extra(json.loads(json.dumps(solution.extra)))
        assert problem.text == solution.problem
        assert check_solution(problem, solution.steps) == solution.label
        assert solution.final_answer_correct == (solution.label == -1)
        assert solution.answer == str(problem.answer)


def test_splits_are_disjoint_whatever_the_seed() -> None:
    train = {problem.key for seed in range(3) for problem in make_problems(300, seed, "train")}
    heldout = {problem.key for seed in range(3) for problem in make_problems(300, seed, "heldout")}
    assert not train & heldout


def test_equal_seeds_give_equal_solutions_in_another_process() -> None:
    code = (
        "import json; from dataclasses import asdict; from genprm_trl.miniature.world import make_solutions;"
        "from genprm_trl.miniature.reasoner import rationale_records;"
        "s = make_solutions(20, seed=4, split='heldout');"
        "r, _ = rationale_records(s, {'full': 1, 'analysis': 1}, seed=2);"
        "print(json.dumps([[asdict(x) for x in s], [x.rationales for x in r]]))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    here = [asdict(solution) for solution in make_solutions(20, seed=4, split="heldout")]
    assert json.loads(runs[0])[0] == json.loads(json.dumps(here))
    assert make_solutions(20, seed=5, split="heldout") != make_solutions(20, seed=4, split="heldout")


@pytest.fixture
def problem() -> Problem:
    return make_problems(1, seed=11)[0]


def test_check_solution_accepts_swapped_summands_and_factors_only(problem: Problem) -> None:
    steps = gold_steps(problem, random.Random(0))
    for index, equation in enumerate(problem.plan):
        swapped = Equation(equation.right, equation.operator, equation.left, equation.result)
        changed = [*steps[:index], f"so {swapped.text}", *steps[index + 1 :]]
        assert check_solution(problem, changed) == (-1 if equation.operator in "+*" else index)


@pytest.mark.parametrize(
    "step",
    ["", "Step 2: I do not know.", "Step 2: 12 + = 4", "Step 2: \x00", "Step 2: 1 / 0 = 3", "= " * 50, "9" * 50_000],
)
def test_a_step_without_a_right_equation_is_wrong(problem: Problem, step: str) -> None:
    steps = gold_steps(problem, random.Random(0))
    assert check_solution(problem, [steps[0], step, *steps[2:]]) == 1


def test_check_solution_sees_a_wrong_box_and_a_step_too_many(problem: Problem) -> None:
    steps = gold_steps(problem, random.Random(0))
    last = len(steps) - 1
    assert check_solution(problem, [*steps[:-1], f"{problem.plan[-1].text}, so \\boxed{{1}}"]) == last
    assert check_solution(problem, [*steps, "Step 9: 1 + 1 = 2"]) == last + 1
    assert check_solution(problem, steps[:-1]) == -1


@given(st.text())
def test_any_text_is_judged(text: str) -> None:
    problem = make_problems(1, seed=2)[0]
    solution = as_solution(problem, [text], "x", "anyone")
    equation = read_equation(text)
    assert equation is None or equation.text in text
    assert solution.label == 0
    assert solution.extra["error_kind"] == "natural"


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({}, "family"),
        ({"family": "nothing", "quantities": [], "telling": 0, "words": {}}, "nothing"),
        ({"family": "packing", "quantities": [1], "telling": 0, "words": {}}, "5 quantities"),
    ],
)
def test_extra_of_another_world_is_refused(extra: dict, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        Problem.from_extra(extra)
