"""The records that flow between the stages: solutions, verdicts, and rationale data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

StepStatus = Literal[
    "ok",  # a verdict was read after a complete rationale
    "fallback",  # code rounds or tokens ran out, the verdict was forced after what had been written
    "no_verdict",  # the model wrote no verdict even when it was forced; the reward is 0.5
    "truncated",  # the conversation would not fit the model's context; the reward is 0.5
    "skipped",  # not judged, because an earlier step ended the solution (`stop="first_error"`)
    "error",  # the generator failed on this step; the reward is 0.5
]


@dataclass(slots=True)
class Solution:
    """A problem and a solution split into steps: the schema of ProcessBench (arXiv 2412.06559).

    Attributes:
        id: Unique within a file.
        problem: The problem's text.
        steps: The steps (paragraphs) in order, at least one.
        answer: The reference answer, if known.
        final_answer_correct: Whether the solution ends at the right answer, if known.
        label: Index from 0 of the first wrong step, -1 for none, None where unknown.
        generator: What wrote the solution.
        extra: Fields of the source row that have no place of their own.
    """

    id: str
    problem: str
    steps: list[str]
    answer: str | None = None
    final_answer_correct: bool | None = None
    label: int | None = None
    generator: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class CodeRound:
    """A code block of a rationale, what it printed, and how it ended (see `sandbox.base.ExecutionResult`)."""

    code: str
    output: str
    status: str
    seconds: float


@dataclass(slots=True)
class StepJudgement:
    """One chain's judgement of one step.

    Attributes:
        rationale: The assistant's whole text for the step, forced prefixes and interpreter output included.
        reward: P(Yes) in [0, 1].
        status: See `StepStatus`.
        code_rounds: The code blocks that ran, in order.
        num_tokens: Tokens the model generated for this step.
    """

    rationale: str
    reward: float
    status: StepStatus
    code_rounds: list[CodeRound] = field(default_factory=list)
    num_tokens: int = 0


@dataclass(slots=True)
class Verdict:
    """The verifier's judgement of a solution.

    Attributes:
        id: The solution's id.
        rewards: P(Yes) of each step, averaged over the chains that judged it.
        prediction: Index from 0 of the first step whose reward is below the threshold, -1 for none.
        chains: `chains[n][t]` is chain n's judgement of step t.
        label: The solution's label, carried over so that a verdict file can be scored alone.
        threshold: The threshold the prediction was made with.
    """

    id: str
    rewards: list[float]
    prediction: int
    chains: list[list[StepJudgement]]
    label: int | None = None
    threshold: float = 0.5


@dataclass(slots=True)
class RationaleRecord:
    """A solution with a rationale for each judged step: a row of GenPRM's SFT data (arXiv 2504.00891, section 3).

    Attributes:
        solution: The solution judged.
        rationales: The assistant's text for each judged step, in the conversation format of `protocol`; one for each of
            the first `len(rationales)` steps (a solution is usually judged up to its first wrong step).
        labels: Whether each judged step is correct.
        source: What made the rationales, for audit.
    """

    solution: Solution
    rationales: list[str]
    labels: list[bool]
    source: dict[str, Any] = field(default_factory=dict)
