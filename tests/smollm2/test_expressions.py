"""Generated expressions: labels agree with the equations, problems differ, and all kinds of errors come up."""

from collections import Counter

from genprm_trl.smollm2.equations import evaluate, holds
from genprm_trl.smollm2.expressions import PART_ERRORS, make_expressions

SOLUTIONS = make_expressions(300, seed=3)


def test_the_first_false_equation_is_the_label():
    for solution in SOLUTIONS:
        right = [all(map(holds, step.equations)) for step in solution.steps]
        assert (right.index(False) if False in right else -1) == solution.label
        assert (solution.label == -1) == (solution.error_kind is None)


def test_a_right_solution_ends_at_the_answer():
    for solution in SOLUTIONS:
        assert str(evaluate(solution.problem.removesuffix("="))) == solution.answer
        if solution.label == -1:
            assert evaluate(solution.steps[-1].equations[0][-1]) == int(solution.answer)


def test_what_an_equation_says_stands_in_the_step():
    for solution in SOLUTIONS:
        for step in solution.steps:
            for equation in step.equations:
                assert " = ".join(equation) in step.text


def test_problems_and_kinds_vary():
    assert len({solution.problem for solution in SOLUTIONS}) == 300
    kinds = Counter(solution.error_kind for solution in SOLUTIONS)
    assert set(kinds) == {None, "whole", *PART_ERRORS}
    assert min(kinds.values()) >= 10
    assert make_expressions(20, seed=3) == SOLUTIONS[:20]
    assert make_expressions(20, seed=4) != SOLUTIONS[:20]
