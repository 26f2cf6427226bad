"""The policy: trained for real for a few steps, sampled for real, and labelled against the problems' plans."""

from __future__ import annotations

import pytest

from genprm_trl.generation.base import GenerationResult, SamplingParams
from genprm_trl.miniature.policy import natural_solutions, policy_rows, sample_solutions, train_policy
from genprm_trl.miniature.reasoner import rationale_records
from genprm_trl.miniature.tokenizer import build_tokenizer
from genprm_trl.miniature.word_problems import Problem, check_solution, gold_steps
from genprm_trl.miniature.world import make_problems, seeded

TOKENIZER = build_tokenizer()


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy")
    train_policy(str(path), TOKENIZER, n=64, max_steps=4, disable_tqdm=True, use_cpu=True)
    return path


def test_rows_are_right_solutions_in_trls_format():
    for row in policy_rows(20):
        assert [message["role"] for message in (*row["prompt"], *row["completion"])] == ["user", "assistant"]
        assert row["completion"][0]["content"].startswith("Step 1:")


def test_samples_are_labelled_whatever_was_written(policy):
    solutions = natural_solutions(policy, 12, "heldout", seed=3)
    assert len({solution.id for solution in solutions}) == len(solutions) == 12
    assert [s.steps for s in solutions] == [s.steps for s in natural_solutions(policy, 12, "heldout", seed=3)]
    assert any(solution.label > 0 for solution in solutions)  # it took over after right steps
    for solution in solutions:
        assert solution.label == check_solution(Problem.from_extra(solution.extra), solution.steps)
    # The reasoner can judge them, too.
    rationale_records(solutions, {"full": 1, "analysis": 1, "code_execution": 1})


class PerfectPolicy:
    """A generator that writes the gold solution of the problem it is asked."""

    tokenizer, max_context = TOKENIZER, 2048

    def __init__(self, problems: list[Problem]):
        self.answers = {problem.text: "\n".join(gold_steps(problem, seeded("perfect"))) for problem in problems}

    async def generate(self, token_ids: list[int], params: SamplingParams) -> GenerationResult:
        prompt = TOKENIZER.decode(token_ids)
        text = next(answer for problem, answer in self.answers.items() if problem in prompt)
        return GenerationResult(text, TOKENIZER.encode(text))


def test_right_solutions_are_labelled_right():
    problems = make_problems(15, seed=4)
    for solution in sample_solutions(PerfectPolicy(problems), problems):
        assert solution.label == -1
        assert solution.final_answer_correct
