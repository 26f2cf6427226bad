"""Verifiers that look at the plan of a miniature problem: one tells the truth, the other has a planted weakness."""

from __future__ import annotations

from collections.abc import Sequence

from genprm_trl.miniature.word_problems import Problem, check_solution
from genprm_trl.records import Solution, StepJudgement, Verdict, prediction_from_rewards
from genprm_trl.training.step_grpo.figures import idle_steps
from genprm_trl.verifier.base import Verifier, check_steps


class TrueVerifier(Verifier):
    """Rewards steps by the world's own grader: 1 before the first wrong step, and 0 from there on.

    It is what a trained verifier would be at its best. Like that one it judges the steps that are there: a solution
    that stops too early has no wrong step.
    """

    @property
    def concurrency(self) -> int:
        return 64

    async def verify(self, solution: Solution) -> Verdict:
        check_steps(solution)
        problem = Problem.from_text(solution.problem)
        rewards = [0.0] * len(solution.steps) if problem is None else self.rewards(problem, solution.steps)
        return Verdict(
            solution.id,
            rewards,
            prediction_from_rewards(rewards),
            [[StepJudgement("", reward, "ok") for reward in rewards]],
            label=solution.label,
            solution_digest=solution.digest,
        )

    def rewards(self, problem: Problem, steps: Sequence[str]) -> list[float]:
        """A reward for each step."""
        wrong = check_solution(problem, steps)
        return [float(wrong == -1 or index < wrong) for index in range(len(steps))]


class FooledVerifier(TrueVerifier):
    """Likes every step that says nothing, or what was said before. It judges the other steps as if those were away."""

    def rewards(self, problem: Problem, steps: Sequence[str]) -> list[float]:
        idle = idle_steps(steps)
        judged = iter(super().rewards(problem, [step for step, empty in zip(steps, idle, strict=True) if not empty]))
        return [1.0 if empty else next(judged) for empty in idle]
