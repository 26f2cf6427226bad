r"""Pairs of steps for Step-DPO, from solutions of which the first wrong step is known (arXiv 2406.18629, section 3.2).

A pair is the right prefix of a solution, the first wrong step, and a right step in its place. The paper samples that
step from the policy itself: of 20 continuations of the prefix, the first step of one with the right final answer.
Steps of other authors teach less (section 4.3). So does this module, and it looks for the step in two places, in this
order:

- another solution of the problem that begins alike and is right: rollouts that are paid for already;
- continuations that the policy samples.

The prefix ends with the heading of the next step, if steps have one (`Step 2:`). The policy thus writes a step of the
same form, and both steps of the pair have the same heading.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from genprm_trl import grading
from genprm_trl._loops import gathered
from genprm_trl.data.problems import SolutionGroup
from genprm_trl.data.step_pairs import StepPair
from genprm_trl.data.steps import StepStyle, heading_of, split_steps
from genprm_trl.errors import DataError, check_at_least
from genprm_trl.generation.seeding import derive_seed
from genprm_trl.grading.thinking import without_thinking
from genprm_trl.labeling.monte_carlo import separator_of
from genprm_trl.labeling.rollout_tree import prefix_text, state_digest
from genprm_trl.labeling.rollouts import normalized_steps
from genprm_trl.records import Solution
from genprm_trl.rows.digests import content_digest
from genprm_trl.solving.solver import Solver, open_solver_and_verifier
from genprm_trl.stages.file import Outcome
from genprm_trl.stages.partial import Partial
from genprm_trl.stages.run import ItemFailed
from genprm_trl.verifier.base import Verifier

_ROUND = 4  # continuations sampled at once: most prefixes need few of them


@dataclass(frozen=True, slots=True)
class PairConfig:
    """How the right steps are found: options of `genprm pairs`.

    Raises:
        ConfigError: A value is out of range.
    """

    samples: int = field(
        default=20,
        metadata={"help": "Maximum continuations sampled of each prefix. Sampling ends when a right step is found."},
    )
    seed: int = field(default=0, metadata={"help": "The same seed gives the same pairs."})

    def __post_init__(self) -> None:
        check_at_least(1, samples=self.samples)


@dataclass(frozen=True, slots=True)
class LabelledGroup(SolutionGroup):
    """Solutions of one problem with their labels."""

    @property
    def digest(self) -> str:
        """A short hash of everything that pairs are made from."""
        answer = self.solutions[0].answer
        each = [[s.id, s.digest, s.label, s.final_answer_correct, separator_of(s)] for s in self.solutions]
        return content_digest([answer, *each])


def check_label(solution: Solution) -> None:
    """Refuses a solution that does not say which step is the first wrong one.

    Raises:
        DataError: It does not.
    """
    if solution.label is None:
        raise DataError(
            f"solution '{solution.id}' has no label (the first wrong step, -1 for none); genprm label writes it",
            field="label",
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """The place of a solution's first wrong step.

    Attributes:
        solution: The solution.
        steps: The right steps before it.
        heading: The heading of the wrong step; empty if it has none.
        prefix: The right steps and the heading, as the policy continues them.
        rejected: The wrong step, as it follows the prefix.
        style: How a continuation is split.
    """

    solution: Solution
    steps: list[str]
    heading: str
    prefix: str
    rejected: str
    style: StepStyle

    @classmethod
    def of(cls, solution: Solution) -> _Place:
        assert solution.label is not None  # see `check_label`
        steps, wrong = solution.steps[: solution.label], solution.steps[solution.label]
        separator, heading = separator_of(solution), heading_of(wrong)
        style: StepStyle = "step" if heading else "blank_line" if "\n\n" in separator else "line"
        prefix = prefix_text(steps, separator) + heading
        return cls(solution, steps, heading, prefix, wrong[len(heading) :], style)

    @property
    def key(self) -> tuple[str, ...]:
        return normalized_steps([*self.steps, self.solution.steps[len(self.steps)]])

    def step_of(self, written: str) -> str:
        """The first step of a continuation, as it follows the prefix; empty if there is none."""
        steps = split_steps(without_thinking(self.heading + written), self.style).steps
        return steps[0][len(self.heading) :] if steps and steps[0].startswith(self.heading) else ""

    def step_in(self, other: Solution) -> str:
        """The step that a right solution goes on with in this place; empty if it does not come by here."""
        assert other.label is not None  # see `check_label`
        place = len(self.steps)
        is_right = other.final_answer_correct is not False and other.label < 0
        if not is_right or len(other.steps) <= place:
            return ""
        if normalized_steps(other.steps[:place]) != normalized_steps(self.steps):
            return ""
        step = other.steps[place]
        heading = heading_of(step)
        return step[len(heading) :] if bool(heading) == bool(self.heading) else ""


class _Candidates:
    """Right steps for a place, each looked at once.

    Attributes:
        dropped: Reason to number of the steps that were not taken.
    """

    def __init__(self, place: _Place, verifier: Verifier | None):
        self._place, self._verifier = place, verifier
        self._seen = {normalized_steps([place.rejected])}
        self.dropped: Counter[str] = Counter()

    async def take(self, steps: list[str]) -> str:
        """The first of some steps that can be taken; empty if there is none."""
        new = []
        for step in steps:
            key = normalized_steps([step])
            if key in self._seen:
                self.dropped["same_step"] += 1
            elif any(key):
                self._seen.add(key)
                new.append(step)
        for step in new:
            if await self._is_right(step):
                return step
            self.dropped["step_judged_wrong"] += 1
        return ""

    async def _is_right(self, step: str) -> bool:
        """Whether the verifier finds the step right. A step that it does not reach has no such verdict."""
        if self._verifier is None:
            return True
        place = self._place
        steps = [*place.steps, (place.heading + step).strip()]
        verdict = await self._verifier.verify(Solution(place.solution.id, place.solution.problem, steps))
        if verdict.has_failed:
            raise ItemFailed(f"the verifier failed on a step for '{place.solution.id}'")
        return len(verdict.rewards) == len(steps) and verdict.read[-1] and verdict.rewards[-1] >= verdict.threshold


@contextlib.asynccontextmanager
async def open_pair_makers(
    open_policy: Callable[[], AbstractAsyncContextManager[Solver]] | None,
    open_verifier: Callable[[], Verifier] | None,
    *,
    policy_first: bool = False,
) -> AsyncIterator[tuple[Solver | None, Verifier | None]]:
    """Opens what samples and judges right steps, for a stage's worker.

    Args:
        open_policy: Opens the policy; None to take right steps of the input alone.
        open_verifier: Opens the verifier; None if steps are not judged.
        policy_first: As in `open_solver_and_verifier`.
    """
    if open_policy is not None and open_verifier is not None:
        async with open_solver_and_verifier(open_policy, open_verifier, policy_first=policy_first) as both:
            yield both
    elif open_policy is not None:
        async with open_policy() as policy:
            yield policy, None
    elif open_verifier is not None:
        async with open_verifier() as verifier:
            yield None, verifier
    else:
        yield None, None


async def make_pairs(
    makers: tuple[Solver | None, Verifier | None],
    group: LabelledGroup,
    partial: Partial,
    *,
    config: PairConfig,
    source: Mapping[str, Any],
) -> Outcome:
    """Makes a pair of each solution of a problem that has a wrong step.

    Args:
        makers: The policy and the verifier.
        group: The solutions, each with a label.
        partial: Not used; an unfinished problem starts again.
        config: How right steps are found.
        source: Provenance that is written into every row.

    Returns:
        `StepPair` rows. Their source says where the right step is from (`found`: `input` or `sampled`). Solutions are
        dropped as `same_pair` (another solution has the same prefix and wrong step), `no_answer` (samples cannot be
        graded) and `no_right_step`; right steps as `same_step` (as the wrong one, or as one before) and
        `step_judged_wrong`.

    Raises:
        ItemFailed: The generator or the verifier failed.
    """
    places: dict[tuple[str, ...], _Place] = {}
    wrong = [solution for solution in group.solutions if solution.label is not None and solution.label >= 0]
    for solution in wrong:
        place = _Place.of(solution)
        places.setdefault(place.key, place)
    made = await gathered(_make_pair(makers, group, place, config, source) for place in places.values())
    counts: Counter[str] = Counter({"solutions": len(group.solutions), "solutions_with_an_error": len(wrong)})
    dropped: Counter[str] = Counter({"same_pair": len(wrong) - len(places)})
    rows = []
    for outcome in made:
        rows += outcome.rows
        counts.update(outcome.counts)
        dropped.update(outcome.dropped)
    return Outcome(rows=rows, counts=dict(counts), dropped=dict(+dropped))


async def _make_pair(
    makers: tuple[Solver | None, Verifier | None],
    group: SolutionGroup,
    place: _Place,
    config: PairConfig,
    source: Mapping[str, Any],
) -> Outcome:
    policy, verifier = makers
    solution, candidates = place.solution, _Candidates(place, verifier)
    counts: Counter[str] = Counter()
    found = "input"
    chosen = await candidates.take([step for other in group.solutions if (step := place.step_in(other))])
    if not chosen and policy is not None and solution.answer is not None:
        found = "sampled"
        counts["prefixes_sampled"] = 1
        texts: set[str] = set()
        for start in range(0, config.samples, _ROUND):
            numbers = range(start, min(start + _ROUND, config.samples))
            sampled = await _sample(policy, place, numbers, config.seed)
            counts["samples"] += len(sampled)
            counts["samples_right"] += sum(right for _, right, _ in sampled)
            counts["tokens"] += sum(tokens for _, _, tokens in sampled)
            texts.update(text for text, _, _ in sampled)
            if chosen := await candidates.take([place.step_of(text) for text, right, _ in sampled if right]):
                break
        counts["prefixes_with_equal_samples"] = int(len(texts) == 1 < counts["samples"])
    if not chosen:
        reason = "no_answer" if policy is not None and solution.answer is None else "no_right_step"
        return Outcome(counts=dict(counts), dropped=dict(candidates.dropped + Counter({reason: 1})))
    counts[f"pairs_{found}"] = 1
    pair = StepPair(
        solution.id, solution.problem, place.prefix, chosen, place.rejected, solution.answer,
        {**source, "found": found},
    )  # fmt: skip
    return Outcome(rows=[pair.to_dict()], counts=dict(counts), dropped=dict(candidates.dropped))


async def _sample(policy: Solver, place: _Place, numbers: range, seed: int) -> list[tuple[str, bool, int]]:
    """Continuations of a prefix: the text, whether its final answer is right, and its tokens."""
    solution = place.solution
    prompt = policy.prompt(solution.problem, place.prefix, thinks=False)
    digest = state_digest(solution.problem, place.prefix)
    results = await gathered(
        policy.complete(prompt, derive_seed(seed, "pairs", digest, number), affinity=digest) for number in numbers
    )
    # An answer in the prefix must not answer for the continuation.
    texts = [policy.graded_text(place.prefix, each.text, each.finish_reason, alone=True) for each in results]
    grades = await asyncio.to_thread(grading.grade_many, [(text, str(solution.answer)) for text in texts])
    return [(each.text, bool(grade.correct), each.num_generated) for each, grade in zip(results, grades, strict=True)]
