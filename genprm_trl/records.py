"""The records that flow between the stages: solutions, verdicts, and rationale data.

Each converts to a JSON object and back without loss (`to_dict`, `from_dict`); `from_dict` checks what it reads and
raises `DataError` naming the field. Reading files of them is in `loading`, writing in `rows.jsonl`, other datasets'
row formats in `data.formats`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast, get_args

from genprm_trl.errors import DataError
from genprm_trl.rows.digests import content_digest
from genprm_trl.rows.fields import (
    as_answer,
    as_choice,
    as_filled_text,
    as_identifier,
    as_integer,
    as_label,
    as_list,
    as_number,
    as_object,
    as_objects,
    as_optional_bool,
    as_optional_text,
    as_step_label,
    as_steps,
    as_text,
    json_safe,
    require,
)

StepStatus = Literal[
    "ok",  # a verdict was read after a complete rationale
    "fallback",  # code rounds or tokens ran out, the verdict was forced after what had been written
    "no_verdict",  # the model wrote no verdict even when it was forced; the reward is 0.5
    "truncated",  # the conversation would not fit the model's context; the reward is 0.5
    "error",  # the generator or the sandbox failed on this step; the reward is 0.5
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
        extra: Fields of the source row that have no other place.
    """

    id: str
    problem: str
    steps: list[str]
    answer: str | None = None
    final_answer_correct: bool | None = None
    label: int | None = None
    generator: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """A short hash of problem and steps: says whether a verdict is about this very text."""
        return content_digest([self.problem, self.steps])

    def to_dict(self) -> dict[str, Any]:
        """The row of this solution: ProcessBench's fields, `answer`, and `extra` where it holds anything."""
        row: dict[str, Any] = {
            "id": self.id,
            "generator": self.generator,
            "problem": self.problem,
            "steps": list(self.steps),
            "answer": self.answer,
            "final_answer_correct": self.final_answer_correct,
            "label": self.label,
        }
        if self.extra:  # an empty object has no type in Arrow, so `datasets` could not read it
            row["extra"] = dict(self.extra)
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], *, default_id: str | None = None) -> Self:
        """Checks a row and makes the solution of it. Fields without another place go to `extra`.

        Args:
            row: A row of ProcessBench's schema, or one that `to_dict` made.
            default_id: The id of a row that has none.

        Raises:
            DataError: A field is missing, of the wrong type or out of range.
        """
        row = as_object(row, None)
        steps = as_steps(require(row, "steps"), "steps")
        known = {"id", "generator", "problem", "steps", "answer", "final_answer_correct", "label", "extra"}
        nested = row.get("extra")
        extra = dict(nested) if isinstance(nested, Mapping) else {} if nested is None else {"extra": nested}
        # In Arrow every row has every column; a null is the absence of the field.
        extra |= {key: value for key, value in row.items() if key not in known and value is not None}
        label = None if row.get("label") is None else as_label(row["label"], "label", high=len(steps) - 1)
        return cls(
            id=as_identifier(row, default_id),
            problem=as_filled_text(require(row, "problem"), "problem"),
            steps=steps,
            answer=as_answer(row.get("answer"), "answer"),
            final_answer_correct=as_optional_bool(row.get("final_answer_correct"), "final_answer_correct"),
            label=agreed_label(label, extra.get("labels"), len(steps)),
            generator=as_optional_text(row.get("generator"), "generator"),
            extra=json_safe(extra),
        )


@dataclass(slots=True)
class CodeRound:
    """A code block of a rationale, what it printed, and how it ended (see `sandbox.base.ExecutionResult`)."""

    code: str
    output: str
    status: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return {"code": self.code, "output": self.output, "status": self.status, "seconds": float(self.seconds)}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Checks an object and makes the round of it.

        Raises:
            DataError: A field is missing or of the wrong type.
        """
        code, output, status = (as_text(row.get(name), name) for name in ("code", "output", "status"))
        return cls(code, output, status, seconds=as_number(row.get("seconds"), "seconds"))


@dataclass(slots=True)
class StepJudgement:
    """One chain's judgement of one step.

    Attributes:
        rationale: The assistant's whole text for the step, forced prefixes and interpreter output included.
        reward: P(Yes) in [0, 1].
        status: How the judgement was reached.
        code_rounds: The code blocks that ran, in order.
        num_tokens: Tokens the model generated for this step.
        solution_reward: P(correct) in [0, 1] of the solution as a whole, up to the last step that was there when this
            one was judged. None of verifiers that do not say it, and in judgements before that last step. So in a
            search, where solutions grow, judgements of several steps may hold one.
    """

    rationale: str
    reward: float
    status: StepStatus
    code_rounds: list[CodeRound] = field(default_factory=list)
    num_tokens: int = 0
    solution_reward: float | None = None

    @property
    def is_read(self) -> bool:
        """Whether it holds a verdict of the model. Without one the reward is 0.5, and no score counts it as right."""
        return self.status in ("ok", "fallback")

    def to_dict(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        row = {
            "rationale": self.rationale,
            "reward": float(self.reward),
            "status": self.status,
            "code_rounds": [code_round.to_dict() for code_round in self.code_rounds],
            "num_tokens": int(self.num_tokens),
        }
        if self.solution_reward is not None:
            row["solution_reward"] = float(self.solution_reward)
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Checks an object and makes the judgement of it.

        Raises:
            DataError: A field is missing, of the wrong type or out of range.
        """
        whole = row.get("solution_reward")
        return cls(
            rationale=as_text(row.get("rationale"), "rationale"),
            reward=as_number(row.get("reward"), "reward", low=0, high=1),
            status=cast(StepStatus, as_choice(row.get("status"), "status", get_args(StepStatus))),
            code_rounds=as_objects(row.get("code_rounds") or [], "code_rounds", CodeRound.from_dict),
            num_tokens=as_integer(row.get("num_tokens", 0), "num_tokens", low=0),
            solution_reward=None if whole is None else as_number(whole, "solution_reward", low=0, high=1),
        )


@dataclass(slots=True)
class Verdict:
    """The verifier's judgement of a solution.

    Attributes:
        id: The solution's id.
        rewards: P(Yes) of each step, averaged over the chains that judged it.
        prediction: Index from 0 of the first step whose reward is below the threshold, -1 for none.
        chains: `chains[m][t]` is chain m's judgement of step t; all chains judge the same steps.
        label: The solution's label, carried over so that a file of verdicts can be scored without the solutions.
        threshold: The threshold the prediction was made with.
        solution_digest: `Solution.digest` of what was judged; empty where unknown.
        n: Chains that were asked for; with adaptive N it may be more than `chains` holds.
    """

    id: str
    rewards: list[float]
    prediction: int
    chains: list[list[StepJudgement]]
    label: int | None = None
    threshold: float = 0.5
    solution_digest: str = ""
    n: int = 0

    def __post_init__(self) -> None:
        self.n = self.n or len(self.chains)

    @property
    def has_failed(self) -> bool:
        """Whether the generator or the sandbox failed in one of the judgements. Such a verdict is in no score."""
        return any(judgement.status == "error" for chain in self.chains for judgement in chain)

    @property
    def num_tokens(self) -> int:
        """Tokens that were generated for it, over all chains and steps."""
        return sum(judgement.num_tokens for chain in self.chains for judgement in chain)

    @property
    def read(self) -> list[bool]:
        """Whether a chain gave the step a verdict; True of a verifier that writes none. Shape (T,)."""
        by_step = zip(*self.chains, strict=False)
        return [any(judgement.is_read for judgement in step) for step in by_step] or [True] * len(self.rewards)

    @property
    def read_rewards(self) -> list[float]:
        """The averaged rewards, NaN where no chain gave the step a verdict. Shape (T,)."""
        return [reward if is_read else math.nan for reward, is_read in zip(self.rewards, self.read, strict=False)]

    @property
    def chain_rewards(self) -> list[list[float]]:
        """The rewards of each chain, NaN where it gave the step no verdict. Shape (M, T)."""
        return [[judgement.reward if judgement.is_read else math.nan for judgement in chain] for chain in self.chains]

    @property
    def solution_reward(self) -> float | None:
        """P(correct) of the whole solution, averaged over all chains; None if none says it.

        A chain that does not say it counts as 0, as in ThinkPRM's released code. Otherwise one lucky chain would beat
        four good ones.
        """
        said = [chain[-1].solution_reward for chain in self.chains if chain]
        if all(reward is None for reward in said):
            return None
        return sum(reward or 0.0 for reward in said) / len(said)

    @property
    def scored_prediction(self) -> int | None:
        """The prediction as scores count it: None, which is wrong, where a step that it rests on has no verdict.

        It rests on the steps up to the predicted one, or on all. A step has no verdict if no chain gave it one.
        """
        return prediction_if_read(self.prediction, self.read)

    @property
    def is_unread(self) -> bool:
        """Whether there are judgements, and none holds a verdict on its step or on the solution."""
        judgements = [judgement for chain in self.chains for judgement in chain]
        return bool(judgements) and self.solution_reward is None and not any(self.read)

    def to_dict(self) -> dict[str, Any]:
        """The row of this verdict. Every row has the same fields and types, so `datasets` reads a file of them."""
        return {
            "id": self.id,
            "rewards": [float(reward) for reward in self.rewards],
            "prediction": int(self.prediction),
            "label": None if self.label is None else int(self.label),
            "threshold": float(self.threshold),
            "solution_digest": self.solution_digest,
            "n": int(self.n),
            "chains": [[judgement.to_dict() for judgement in chain] for chain in self.chains],
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Checks a row and makes the verdict of it.

        Raises:
            DataError: A field is missing, of the wrong type or out of range.
        """
        row = as_object(row, None)
        rewards = as_list(require(row, "rewards"), "rewards")
        chains = as_list(row.get("chains") or [], "chains")
        label = row.get("label")
        return cls(
            id=as_identifier(row, None),
            rewards=[as_number(reward, f"rewards[{t}]", low=0, high=1) for t, reward in enumerate(rewards)],
            prediction=as_integer(require(row, "prediction"), "prediction", low=-1, high=len(rewards) - 1),
            chains=[as_objects(chain, f"chains[{n}]", StepJudgement.from_dict) for n, chain in enumerate(chains)],
            label=None if label is None else as_label(label, "label"),
            threshold=as_number(row.get("threshold", 0.5), "threshold"),
            solution_digest=as_text(row.get("solution_digest", ""), "solution_digest"),
            n=as_integer(row.get("n", 0), "n", low=0),
        )


def prediction_from_rewards(rewards: Sequence[float], threshold: float = 0.5) -> int:
    """Index from 0 of the first step whose reward is below the threshold, -1 for none.

    Raises:
        ValueError: A reward is NaN, which is neither below a threshold nor above it.
    """
    for index, reward in enumerate(rewards):
        if math.isnan(reward):
            raise ValueError(f"the reward of step {index} is NaN")
        if reward < threshold:
            return index
    return -1


def prediction_if_read(prediction: int, read: Sequence[bool]) -> int | None:
    """The prediction; None if a step that it rests on has no verdict.

    Args:
        prediction: Index from 0 of the first step judged wrong, -1 for none.
        read: Whether each judged step has a verdict. Shape (T,).
    """
    return prediction if all(read[: prediction + 1 or None]) else None


@dataclass(slots=True)
class RationaleRecord:
    """A solution with a rationale for each judged step: a row of GenPRM's SFT data (arXiv 2504.00891, section 3).

    Attributes:
        solution: The solution judged.
        rationales: The assistant's text for each judged step, in the conversation format of `protocol`; one for each
            of the first `len(rationales)` steps (a solution is usually judged up to its first wrong step).
        labels: Whether each judged step is correct.
        source: What made the rationales, for audit.
    """

    solution: Solution
    rationales: list[str]
    labels: list[bool]
    source: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The row of this record. `id` repeats the solution's, so that files of every kind resume alike."""
        labels = [bool(label) for label in self.labels]
        return row_about(self.solution, self.source, rationales=list(self.rationales), labels=labels)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Checks a row and makes the record of it.

        Raises:
            DataError: A field is missing, of the wrong type, or the numbers of rationales, labels and steps disagree.
        """
        solution, source = read_about(row)
        rationales = as_list(require(row, "rationales"), "rationales")
        labels = as_list(require(row, "labels"), "labels")
        if not 1 <= len(rationales) <= len(solution.steps):
            raise DataError(
                f"must hold one rationale for each judged step: {len(rationales)} for {len(solution.steps)} steps",
                field="rationales",
            )
        if len(labels) != len(rationales):
            raise DataError(f"must be as many as the rationales: {len(labels)} for {len(rationales)}", field="labels")
        return cls(
            solution=solution,
            rationales=[as_filled_text(item, f"rationales[{index}]") for index, item in enumerate(rationales)],
            labels=[as_step_label(item, f"labels[{index}]") for index, item in enumerate(labels)],
            source=source,
        )


def agreed_label(label: int | None, labels: Any, num_steps: int) -> int | None:
    """The label of a row that may also label every step.

    Args:
        label: The row's label.
        labels: The row's field `labels`; None or an empty list if there is none. They may end with the first wrong
            step. Beside a label, what is no list of booleans (or of 0 and 1) says nothing here.
        num_steps: Steps of the solution.

    Returns:
        The label; where there is none, what `labels` says of all steps.

    Raises:
        DataError: Both are there, and they disagree; there are more labels than steps; or without a label they are
            something else, or say too little.
    """
    if labels is None or (isinstance(labels, list | tuple) and not labels):
        return label
    try:
        right = [as_step_label(item, f"labels[{index}]") for index, item in enumerate(as_list(labels, "labels"))]
    except DataError:
        if label is None:
            raise
        return label
    if len(right) > num_steps:
        raise DataError(f"must be as many as the steps: {len(right)} for {num_steps}", field="labels")
    first = right.index(False) if False in right else -1
    if label is None:
        if first < 0 and len(right) < num_steps:
            raise DataError(
                f"must be as many as the steps, or end with a wrong one: {len(right)} for {num_steps}", field="labels"
            )
        return first
    # Labels may end before the first wrong step, but not say something else of it.
    if first != label and (first >= 0 or label < len(right)):
        said = "every step is right" if label < 0 else f"the first wrong step is {label} (from 0)"
        other = f"it is {first}" if first >= 0 else "none of them is wrong"
        raise DataError(f"says that {said}, but the row's 'labels' say that {other}", field="label")
    return label


def row_about(solution: Solution, source: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """A row about a solution. `id` repeats the solution's.

    Args:
        solution: The solution.
        source: What made the fields, for audit.
        **fields: The row's own fields.
    """
    row = {"id": solution.id, "solution": solution.to_dict(), **fields}
    if source:  # an empty object has no type in Arrow
        row["source"] = dict(source)
    return row


def read_about(row: Mapping[str, Any]) -> tuple[Solution, dict[str, Any]]:
    """The solution and the source of a row that `row_about` made.

    Raises:
        DataError: The solution is missing, or a field of it is bad.
    """
    inner = as_object(require(as_object(row, None), "solution"), "solution")
    try:
        solution = Solution.from_dict(inner, default_id=row.get("id"))
    except DataError as error:
        raise error.at(within="solution") from None
    return solution, json_safe(as_object(row.get("source") or {}, "source"))
