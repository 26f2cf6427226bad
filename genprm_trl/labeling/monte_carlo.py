"""Monte Carlo estimates of a solution's steps, and the labels they give (arXiv 2504.00891, sections 3.1 and 3.2).

The plain recipe completes every prefix of a solution K times; K depends on how hard the problem is, and after the
first prefix that no roll-out completes to the right answer nothing more is sampled. The same labels cost less here:

- A prefix that several solutions of a problem share is sampled once (`rollout_tree`).
- A complete solution needs no roll-outs: its estimate is 1 if its answer is right, else 0.
- Steps after the first wrong one are not sampled (`scope="first_error"`): a verifier is trained up to there.
- Sampling ends when a label is decided (`early_stopping`), exactly or by a test with a stated error.
- For hard labels the first wrong step can be found by binary search (OmegaPRM, arXiv 2406.06592, section 3.2): of T
  prefixes about log2(T) are sampled. This is the recipe's label wherever no later prefix of a solution is completed
  after an earlier one never was.

Roll-outs are a fixed stream for each prefix, so a label does not depend on what else is sampled, nor on the order in
which anything finishes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from genprm_trl.data.problems import SolutionGroup
from genprm_trl.errors import ConfigError
from genprm_trl.grading.comparison import grade_many
from genprm_trl.labeling.earlier_rollouts import EarlierRollouts
from genprm_trl.labeling.early_stopping import Count, ExactStopping, StoppingRule
from genprm_trl.labeling.progress import Hard, LabelRule, RelativeProgress, first_error
from genprm_trl.labeling.rollout_tree import RolloutTree, State, prefix_text
from genprm_trl.records import Solution
from genprm_trl.solving.solver import Solver
from genprm_trl.stages.file import Outcome
from genprm_trl.stages.partial import Partial

Scope = Literal["first_error", "all"]
Search = Literal["linear", "binary"]

DEFAULT_SEPARATOR = "\n\n"


@dataclass(frozen=True, slots=True)
class RolloutSchedule:
    """How many roll-outs a prefix gets, by the problem's own estimate MC(s_1) (arXiv 2504.00891, section 3.1).

    MC(s_1) is first taken from `medium` roll-outs; where the problem turns out hard, it gets as many as its prefixes.

    Attributes:
        hard, medium, easy: K for a problem with MC(s_1) < `hard_below`, between, and > `easy_above`.
        hard_below, easy_above: The bounds; a problem at a bound is medium.
    """

    hard: int = 128
    medium: int = 64
    easy: int = 32
    hard_below: float = 0.1
    easy_above: float = 0.9

    def __post_init__(self) -> None:
        if min(self.hard, self.medium, self.easy) < 1:
            raise ConfigError(f"each K must be at least 1, got {self.hard}, {self.medium}, {self.easy}")
        if not 0 <= self.hard_below <= self.easy_above <= 1:
            raise ConfigError(
                f"the bounds of MC(s_1) must be 0 <= low <= high <= 1, got {self.hard_below} and {self.easy_above}"
            )

    def k(self, initial: float) -> int:
        """K for a problem with this estimate."""
        return self.hard if initial < self.hard_below else self.easy if initial > self.easy_above else self.medium


@dataclass(frozen=True, slots=True)
class LabelingConfig:
    """How solutions are labelled.

    Attributes:
        rule: Makes labels of estimates.
        stopping: When a label is decided.
        scope: `first_error`: label no steps after the first wrong one. `all`: label every step.
        search: `linear`: one step after the other. `binary`: for the hard rule and the first error alone.
        schedule: Roll-outs of a prefix.
        batch: Roll-outs sampled at once before asking again whether the label is decided.
        seed: Of the roll-outs.
        separator: What stands between two steps; None: what the solution says (`extra["separator"]`), else a blank
            line.

    Raises:
        ConfigError: A value is out of range, or binary search is asked of another rule or scope.
    """

    rule: LabelRule = field(default_factory=RelativeProgress)
    stopping: StoppingRule = field(default_factory=ExactStopping)
    scope: Scope = "first_error"
    search: Search = "linear"
    schedule: RolloutSchedule = field(default_factory=RolloutSchedule)
    batch: int = 8
    seed: int = 0
    separator: str | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"batch must be at least 1, got {self.batch}")
        if self.scope not in ("first_error", "all"):
            raise ConfigError(f"unknown scope {self.scope!r}; choose first_error or all")
        if self.search not in ("linear", "binary"):
            raise ConfigError(f"unknown search {self.search!r}; choose linear or binary")
        if self.search == "binary" and not (isinstance(self.rule, Hard) and self.scope == "first_error"):
            raise ConfigError(
                "binary search finds where the estimate falls to 0: it needs the rule 'hard' and the scope "
                "'first_error'"
            )


def separator_of(solution: Solution) -> str:
    """What stands between two steps of a solution."""
    separator = solution.extra.get("separator")
    return separator if isinstance(separator, str) and separator else DEFAULT_SEPARATOR


async def label(
    solver: Solver,
    group: SolutionGroup,
    partial: Partial,
    *,
    config: LabelingConfig,
    source: Mapping[str, Any],
    earlier: EarlierRollouts | None = None,
) -> Outcome:
    """Labels the solutions of one problem with a completion model.

    Args:
        solver: The completion model.
        group: The solutions.
        partial: Its roll-outs so far.
        config: How they are labelled.
        source: What every row says of its making.
        earlier: Roll-outs of an earlier labelling, which are not paid for again.

    Returns:
        See `label_group`.

    Raises:
        ItemFailed: The generator failed.
    """
    tree = RolloutTree(
        solver,
        group.problem,
        group.answer,
        seed=config.seed,
        keep=partial.keep,
        reused=earlier.of(group.problem, group.answer) if earlier is not None else None,
    )
    tree.restore(partial.known)
    return await label_group(tree, group, config, source)


async def label_group(
    tree: RolloutTree, group: SolutionGroup, config: LabelingConfig, source: Mapping[str, Any]
) -> Outcome:
    """Labels the solutions of one problem.

    Args:
        tree: The problem's states.
        group: Its solutions.
        config: How they are labelled.
        source: What every row says of its making.

    Returns:
        A row for each solution, which is the solution with its `label` (ProcessBench's: the first wrong step), and in
        `extra`: `labels` (of each judged step), `mc` (the estimates after them, None where none was made and 0 from
        the first 0 on), `initial_mc`, `monte_carlo` with K and the outcomes of all roll-outs (of the problem and of
        each prefix, as strings of `0` and `1`), and `labelled_by`.

    Raises:
        ItemFailed: The generator failed.
    """
    problem = tree.state("")
    schedule = config.schedule
    await tree.sample(problem, schedule.medium)
    k = schedule.k(sum(problem.outcomes[: schedule.medium]) / schedule.medium)
    solutions = await asyncio.to_thread(_graded, group)
    labelings = [_Labeling(tree, solution, k, config) for solution in solutions]
    tasks = [asyncio.create_task(labeling.run()) for labeling in labelings]
    try:
        labels = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    states = [state for state in tree.states.values() if state.known is None]
    wrong = sum(first_error(found) >= 0 for found in labels)
    return Outcome(
        rows=[labeling.row(found, source) for labeling, found in zip(labelings, labels, strict=True)],
        counts={
            "problems": 1,
            f"problems_with_k_{k}": 1,
            "solutions": len(solutions),
            "solutions_with_an_error": wrong,
            "steps_labelled": sum(map(len, labels)),
            "steps_labelled_wrong": sum(found.count(False) for found in labels),
            "states_sampled": sum(len(state.outcomes) > 0 for state in states),
            "rollouts": sum(len(state.outcomes) - state.reused for state in states),
            "rollouts_reused": sum(state.reused for state in states),
            "tokens": sum(state.tokens for state in states),
        },
    )


def _graded(group: SolutionGroup) -> list[Solution]:
    """The solutions with `final_answer_correct` filled in where it is not known."""
    unknown = [solution for solution in group.solutions if solution.final_answer_correct is None]
    grades = grade_many([("\n\n".join(solution.steps), group.answer) for solution in unknown])
    correct = {solution.id: grade.correct for solution, grade in zip(unknown, grades, strict=True)}
    return [
        replace(solution, final_answer_correct=correct.get(solution.id, solution.final_answer_correct))
        for solution in group.solutions
    ]


class _Labeling:
    """The labelling of one solution.

    It looks at no more of a state's roll-outs than it has asked for itself, though another solution that shares the
    state may have asked for more: what it decides does not depend on when others run.
    """

    def __init__(self, tree: RolloutTree, solution: Solution, k: int, config: LabelingConfig):
        self.tree, self.solution, self.config, self.k = tree, solution, config, k
        self.separator = config.separator if config.separator is not None else separator_of(solution)
        steps = solution.steps
        self.states = [tree.state(prefix_text(steps[:t], self.separator)) for t in range(len(steps))]
        complete = tree.state(prefix_text(steps, self.separator), known=int(bool(solution.final_answer_correct)))
        self.states.append(complete)
        self.planned = [max(config.schedule.medium, k), *([k] * (len(steps) - 1)), 0]
        self.seen = [config.schedule.medium, *([0] * len(steps))]

    async def run(self) -> list[bool]:
        """Labels of the steps that are judged."""
        if self.config.search == "binary":
            return await self._search()
        labels: list[bool] = []
        for t in range(1, len(self.states)):
            labels.append(await self._decide(t))
            if not labels[-1] and self.config.scope == "first_error":
                break
        return labels

    def _count(self, t: int) -> Count:
        state = self.states[t]
        if state.known is not None:
            return Count(state.known, 0, 0)
        return Count(sum(state.outcomes[: self.seen[t]]), self.seen[t], self.planned[t])

    async def _look_further(self, t: int) -> None:
        step = self.config.batch if self.config.stopping.looks else self.planned[t]
        self.seen[t] = min(self.seen[t] + step, self.planned[t])
        await self.tree.sample(self.states[t], self.seen[t])

    async def _decide(self, t: int) -> bool:
        """Whether step t (from 1), which leads from state t - 1 to state t, is correct."""
        while True:
            earlier = [self._count(s) for s in range(1, t)]
            if any(count.complete and not count.successes for count in earlier):
                return False  # zero stays zero
            before, after = self._count(t - 1), self._count(t)
            possible = self.config.stopping.possible_labels(self.config.rule, before, after, first=t == 1)
            if True not in possible:
                return False
            # A state without a success so far may be where everything was lost.
            open_states = [s for s, count in enumerate(earlier, start=1) if not count.successes]
            if False not in possible and not open_states:
                return True
            if open_states:
                await self._look_further(open_states[0])
            elif after.complete or (
                self.config.rule.compares and not before.complete and before.trials < after.trials
            ):
                await self._look_further(t - 1)
            else:
                await self._look_further(t)

    async def _search(self) -> list[bool]:
        """Binary search for the first step after which no roll-out reaches the answer."""
        last = len(self.states) - 1
        if self.states[last].known:
            return [True] * last
        alive, lost = 0, last
        while lost - alive > 1:
            middle = (alive + lost) // 2
            if await self._is_alive(middle):
                alive = middle
            else:
                lost = middle
        return [True] * (lost - 1) + [False]

    async def _is_alive(self, t: int) -> bool:
        while not self._count(t).complete:
            if self.config.stopping.looks and self._count(t).successes:
                break
            await self._look_further(t)
        return self._count(t).successes > 0

    def _estimate(self, state: State, planned: int) -> float | None:
        if state.known is not None:
            return float(state.known)
        outcomes = state.outcomes[:planned]  # an earlier labelling may have left more
        return sum(outcomes) / len(outcomes) if outcomes else None

    def row(self, labels: Sequence[bool], source: Mapping[str, Any]) -> dict[str, Any]:
        """The labelled solution as a row, once all solutions of the problem are labelled."""
        mc = [self._estimate(self.states[t], self.planned[t]) for t in range(1, len(labels) + 1)]
        zeros = (t for t in range(1, len(mc) + 1) if self._count(t).complete and not self._count(t).successes)
        if (lost := next(zeros, None)) is not None:
            mc[lost:] = [0.0] * (len(mc) - lost)  # that of the complete solution, too
        return replace(
            self.solution,
            label=first_error(labels),
            extra={
                **self.solution.extra,
                "separator": self.separator,
                "labels": list(labels),
                "mc": mc,
                "initial_mc": self._estimate(self.states[0], self.planned[0]),
                "monte_carlo": {
                    "k": self.k,
                    "initial": self.states[0].bits,
                    "steps": [state.bits for state in self.states[1:]],
                },
                "labelled_by": dict(source),
            },
        ).to_dict()
