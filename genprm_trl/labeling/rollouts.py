"""Solutions to label: sampled with step forcing until there are right and wrong ones, then chosen evenly.

This follows arXiv 2504.00891, section 3.1. Up to 2,048 solutions of a problem are sampled. Each begins with `Step 1:`,
so that its steps are delimited. Problems without a right or without a wrong final answer are left out. Of the others'
solutions a balanced sample without duplicates is kept.

Solutions are sampled in rounds that double the total. After each round a problem is finished if

- it has enough different right and enough different wrong solutions, or
- `give_up` solutions hold no right one, or no wrong one, or
- it has `max_samples` solutions.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genprm_trl import grading
from genprm_trl._loops import gathered
from genprm_trl.data.problems import Problem
from genprm_trl.data.steps import StepSplit, split_steps
from genprm_trl.errors import ConfigError, check_at_least
from genprm_trl.generation.seeding import derive_seed
from genprm_trl.grading.thinking import is_still_thinking, without_thinking
from genprm_trl.records import Solution
from genprm_trl.solving.solver import Solver
from genprm_trl.stages.file import Outcome
from genprm_trl.stages.partial import Partial

FIRST_STEP = "Step 1:"
# No more than the heading's own marks: a step may well begin with a minus or a bracket.
_HEADING = re.compile(r"^\W*step\s+\d+[\s*_]*[:.]?[\s*_]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    """How many solutions are sampled and kept: options of `genprm rollout`.

    A problem is given up after `give_up` = n samples without one of a kind: the share of that kind is then below 3 / n
    with 95 % confidence.

    Raises:
        ConfigError: A value is out of range.
    """

    max_samples: int = field(default=2048, metadata={"help": "Maximum solutions sampled per problem."})
    first_round: int = field(
        default=16, metadata={"help": "Solutions in the first round. Each later round doubles their number."}
    )
    give_up: int = field(
        default=256, metadata={"help": "Skip a problem if this many samples are all right or all wrong."}
    )
    keep: int = field(
        default=16,
        metadata={"help": "Solutions kept per problem, half of them right; fewer if there are fewer of one kind."},
    )
    seed: int = field(default=0, metadata={"help": "The same seed gives the same rows."})

    def __post_init__(self) -> None:
        if self.keep < 2:
            raise ConfigError(
                f"at least 2 solutions of a problem must be kept, a right and a wrong one; got {self.keep}"
            )
        if not 2 <= self.first_round <= self.max_samples:
            raise ConfigError(
                f"the first round must be from 2 to max_samples = {self.max_samples} solutions, got {self.first_round}"
            )
        check_at_least(2, give_up=self.give_up)


@dataclass(frozen=True, slots=True)
class Sample:
    """A sampled solution.

    Attributes:
        text: The text, the forced prefix included.
        finished: Whether the model ended it; False if a bound did.
        num_tokens: Tokens generated.
        correct: Whether its final answer is the reference answer; None if it could not be told.
    """

    text: str
    finished: bool
    num_tokens: int
    correct: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the sample as JSON values; `Sample(**values)` reads it back."""
        return {
            "text": self.text, "finished": self.finished, "num_tokens": self.num_tokens, "correct": self.correct
        }  # fmt: skip

    @property
    def unusable(self) -> str | None:
        """Why it is no solution to label."""
        if not self.finished or is_still_thinking(self.text):
            return "solutions_unfinished"
        return "solutions_not_graded" if self.correct is None else None


async def roll_out(
    solver: Solver,
    problem: Problem,
    partial: Partial,
    *,
    config: RolloutConfig,
    source: Mapping[str, Any],
) -> Outcome:
    """Samples solutions of one problem and chooses those to label.

    Args:
        solver: The policy.
        problem: The problem.
        partial: The problem's finished rounds.
        config: How many are sampled and kept.
        source: Provenance that is written into every row; `policy` names the model.

    Returns:
        The chosen solutions as rows, in the order they were sampled in: `Solution` with `final_answer_correct` and
        `generator`, and in `extra`: `problem_id`, `sample` (its number), `separator` (what stands between its steps)
        and `rollout` with what the row was made from.

    Raises:
        ItemFailed: The generator failed.
    """
    samples: list[Sample] = []
    for record in partial.known:
        if record["start"] == len(samples):
            samples += [Sample(**sample) for sample in record["samples"]]
    prompt = solver.prompt(problem.text, FIRST_STEP)
    rounds, wanted = 0, 0
    while True:
        wanted = min(max(2 * wanted, config.first_round), config.max_samples)
        if len(samples) < wanted:
            start = len(samples)
            samples += await _round(solver, problem, prompt, range(start, wanted), config.seed)
            partial.keep({"start": start, "samples": [sample.to_dict() for sample in samples[start:]]})
        rounds += 1
        candidates = _Candidates.of(samples[:wanted])
        if candidates.enough(config.keep) or candidates.hopeless(wanted, config) or wanted == config.max_samples:
            return _outcome(problem, candidates, rounds, config, source)


async def _round(solver: Solver, problem: Problem, prompt: list[int], numbers: range, seed: int) -> list[Sample]:
    results = await gathered(
        solver.complete(prompt, derive_seed(seed, problem.id, problem.digest, number), affinity=problem.id)
        for number in numbers
    )
    texts = [solver.text(FIRST_STEP, result.text, result.finish_reason) for result in results]
    grades = await asyncio.to_thread(grading.grade_many, [(text, problem.answer) for text in texts])
    return [
        Sample(
            text=text,
            finished=result.finish_reason == "stop",
            num_tokens=result.num_generated,
            correct=grade.correct if grade.status == "ok" else None,
        )
        for text, result, grade in zip(texts, results, grades, strict=True)
    ]


@dataclass(slots=True)
class _Candidates:
    """Samples that may be chosen, those of equal steps once.

    Attributes:
        samples: All samples.
        by_correctness: Numbers of the different right and of the different wrong ones, in order.
        splits: The steps of each sample, by its number.
        dropped: Reason to number of the samples that may not be chosen.
    """

    samples: Sequence[Sample]
    by_correctness: dict[bool, list[int]]
    splits: dict[int, StepSplit]
    dropped: Counter[str]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> _Candidates:
        found = cls(samples, {True: [], False: []}, {}, Counter())
        seen = set()
        for number, sample in enumerate(samples):
            if reason := sample.unusable:
                found.dropped[reason] += 1
                continue
            split = split_steps(without_thinking(sample.text), "step")
            key = normalized_steps(split.steps)
            if key in seen:
                found.dropped["solutions_duplicate"] += 1
                continue
            seen.add(key)
            found.splits[number] = split
            found.by_correctness[bool(sample.correct)].append(number)
        return found

    def enough(self, keep: int) -> bool:
        return min(map(len, self.by_correctness.values())) >= keep // 2

    def hopeless(self, sampled: int, config: RolloutConfig) -> bool:
        return sampled >= config.give_up and not all(self.by_correctness.values())


def normalized_steps(steps: Sequence[str]) -> tuple[str, ...]:
    """Steps as they are compared: without headings, case, and differences of white space.

    Examples:
        >>> normalized_steps(["Step 1: 2 + 2 = 4"]) == normalized_steps(["**Step 1.**  2 + 2  = 4"])
        True
    """
    return tuple(" ".join(_HEADING.sub("", step).lower().split()) for step in steps)


def _outcome(
    problem: Problem, candidates: _Candidates, rounds: int, config: RolloutConfig, source: Mapping[str, Any]
) -> Outcome:
    samples, by_correctness = candidates.samples, candidates.by_correctness
    each = min(config.keep // 2, *map(len, by_correctness.values()))
    # Drawn from all different ones, since the first to appear are those that the policy writes most often.
    chosen = sorted(
        number
        for numbers in by_correctness.values()
        for number in sorted(numbers, key=lambda n: derive_seed(config.seed, "choose", problem.id, n))[:each]
    )
    dropped = Counter(candidates.dropped)
    for correct, name in ((True, "right"), (False, "wrong")):
        if not by_correctness[correct]:
            dropped[f"problems_without_a_{name}_solution"] += 1
    dropped["solutions_not_chosen"] = len(candidates.splits) - len(chosen)
    equal = len(samples) > 1 and len({sample.text for sample in samples}) == 1
    return Outcome(
        rows=[_row(problem, number, candidates, len(samples), source) for number in chosen],
        dropped=+dropped,
        counts={
            "problems": 1,
            "problems_kept": int(bool(chosen)),
            "rounds": rounds,
            "samples": len(samples),
            "samples_right": _right(samples),
            "solutions_kept": len(chosen),
            "tokens": sum(sample.num_tokens for sample in samples),
            **({"problems_with_equal_samples": 1} if equal else {}),
        },
    )


def _right(samples: Sequence[Sample]) -> int:
    """How many are right. One that was cut off is neither right nor wrong, whatever it says before its end."""
    return sum(sample.correct is True and sample.unusable is None for sample in samples)


def _row(
    problem: Problem, number: int, candidates: _Candidates, sampled: int, source: Mapping[str, Any]
) -> dict[str, Any]:
    split = candidates.splits[number]
    between = Counter(split.separators[1:-1])
    samples = candidates.samples
    return Solution(
        id=f"{problem.id}-{number}",
        problem=problem.text,
        steps=split.steps,
        answer=problem.answer,
        final_answer_correct=samples[number].correct,
        generator=str(source.get("policy", "")) or None,
        extra={
            "problem_id": problem.id,
            "sample": number,
            "separator": between.most_common(1)[0][0] if between else "\n\n",
            "rollout": {
                **source,
                "samples": sampled,
                "samples_right": _right(samples),
            },
        },
    ).to_dict()
