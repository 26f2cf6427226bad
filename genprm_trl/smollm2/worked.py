"""Solutions whose equations are known, step by step: what training data are made of."""

from __future__ import annotations

from dataclasses import dataclass

from genprm_trl.records import Solution


@dataclass(frozen=True, slots=True)
class WorkedStep:
    """A step and the equations that it states.

    Attributes:
        text: The step.
        equations: Each holds the sides of one equation, in Python; see `equations`.
    """

    text: str
    equations: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class WorkedSolution:
    """A solution with the equations of its steps.

    Attributes:
        id: Unique among those of a source.
        problem: The problem's text.
        steps: The steps.
        answer: The right answer.
        label: Index from 0 of the first wrong step, -1 for none.
        error_kind: What is wrong there; None for a right solution.
        source: Where the solution is from.
    """

    id: str
    problem: str
    steps: tuple[WorkedStep, ...]
    answer: str
    label: int
    error_kind: str | None
    source: str

    def to_solution(self) -> Solution:
        """The solution as a record."""
        return Solution(
            id=self.id,
            problem=self.problem,
            steps=[step.text for step in self.steps],
            answer=self.answer,
            label=self.label,
            generator=self.source,
            extra={"error_kind": self.error_kind},
        )
