"""Monte Carlo estimates of a solution's steps, and the labels they give (arXiv 2504.00891, sections 3.1 and 3.2).

The plain recipe completes every prefix of a solution K times; K depends on how hard the problem is, and after the
first prefix that no rollout completes to the right answer nothing more is sampled. The same labels cost less here:

- A prefix that several solutions of a problem share is sampled once (`rollout_tree`).
- A complete solution needs no rollouts: its estimate is 1 if its answer is right, else 0.
- Steps after the first wrong one are not sampled (`scope="first_error"`): a verifier is trained up to there.
- Sampling ends when the rollouts so far decide a label (`early_stopping`).
- For hard labels the first wrong step can be found by binary search (OmegaPRM, arXiv 2406.06592, section 3.2): of T
  prefixes about log2(T) are sampled. This is the recipe's label wherever no later prefix of a solution is completed
  after an earlier one never was.
- A guide, such as a verifier trained on earlier labels, may say where that search begins: before and after the step
  that it takes for the wrong one. If it is right, these two prefixes are all. If it is wrong, they are at most two
  more. It chooses what is sampled, never what a rollout says.

Rollouts are a fixed stream for each prefix, so a label does not depend on what else is sampled, nor on the order in
which anything finishes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from genprm_trl import grading
from genprm_trl._loops import gathered
from genprm_trl.data.problems import SolutionGroup
from genprm_trl.errors import ConfigError, check_at_least, check_one_of
from genprm_trl.labeling.earlier_rollouts import EarlierRollouts
from genprm_trl.labeling.early_stopping import Count, possible_labels
from genprm_trl.labeling.progress import LabelRule, RuleName, false_alarms, first_error, make_rule
from genprm_trl.labeling.rollout_tree import RolloutTree, State, prefix_text
from genprm_trl.records import Solution
from genprm_trl.solving.solver import Solver
from genprm_trl.stages.file import Outcome, StageSummary
from genprm_trl.stages.partial import Partial

DEFAULT_SEPARATOR = "\n\n"
# Index from 0 of the step of a solution that a guide takes for the first wrong one; None if it names none.
Guess = Callable[[Solution], int | None]
NOISY = 0.15  # chance of a false alarm at a step from which on a problem's labels are noise for the most part


def no_guess(solution: Solution) -> None:
    """No guide at all: a guided search is a binary one then."""


@dataclass(frozen=True, slots=True)
class LabelingConfig:
    """How solutions are labelled: options of `genprm label`.

    A problem's own estimate MC(s_1), from `k` rollouts, says how hard it is and so how many rollouts its prefixes get
    (arXiv 2504.00891, section 3.1). A problem at a bound is neither hard nor easy.

    Raises:
        ConfigError: A value is out of range, or a search is asked of another rule or scope.
    """

    rule: RuleName = field(
        default="rpe",
        metadata={
            "help": "What makes a step correct. rpe: the estimate after it is at least EPSILON times the one before. "
            "hard: it is above 0. difference: it is at most DELTA lower."
        },
    )
    epsilon: float = field(default=0.8, metadata={"help": "Threshold of the rule rpe."})
    delta: float = field(default=0.1, metadata={"help": "Threshold of the rule difference."})
    k_hard: int = field(default=128, metadata={"help": "Rollouts per prefix if MC(s_1) is below HARD_BELOW."})
    k: int = field(default=64, metadata={"help": "Rollouts per prefix if MC(s_1) is between the two bounds."})
    k_easy: int = field(default=32, metadata={"help": "Rollouts per prefix if MC(s_1) is above EASY_ABOVE."})
    hard_below: float = field(default=0.1, metadata={"help": "A problem with a lower MC(s_1) is hard."})
    easy_above: float = field(default=0.9, metadata={"help": "A problem with a higher MC(s_1) is easy."})
    stopping: Literal["none", "exact"] = field(
        default="exact",
        metadata={
            "help": "When sampling from a prefix ends. none: after all K rollouts. exact: when the remaining ones "
            "cannot change a label."
        },
    )
    scope: Literal["first_error", "all"] = field(
        default="first_error", metadata={"help": "first_error: do not label the steps after the first wrong one."}
    )
    search: Literal["linear", "binary", "guided"] = field(
        default="linear",
        metadata={
            "help": "How the first error is found. linear: step by step. With the rule hard also binary: by binary "
            "search, as OmegaPRM does; and guided: by one that begins where a verifier sees the error (--guide)."
        },
    )
    rollout_batch: int = field(
        default=8, metadata={"help": "Rollouts of a prefix sampled before asking again whether they are enough."}
    )
    separator: str | None = field(
        default=None, metadata={"help": "Text between two steps. Default: as the row says, else a blank line."}
    )
    seed: int = field(default=0, metadata={"help": "The same seed gives the same rows."})

    def __post_init__(self) -> None:
        check_at_least(1, k_hard=self.k_hard, k=self.k, k_easy=self.k_easy, rollout_batch=self.rollout_batch)
        check_one_of(("none", "exact"), stopping=self.stopping)
        check_one_of(("first_error", "all"), scope=self.scope)
        check_one_of(("linear", "binary", "guided"), search=self.search)
        if not 0 <= self.hard_below <= self.easy_above <= 1:
            raise ConfigError(
                "the bounds of MC(s_1) must be 0 <= hard_below <= easy_above <= 1, got "
                f"{self.hard_below} and {self.easy_above}"
            )
        self.label_rule()
        if self.search != "linear" and not (self.rule == "hard" and self.scope == "first_error"):
            raise ConfigError(
                f"{self.search} search finds where the estimate falls to 0: it needs the rule 'hard' and the scope "
                "'first_error'; others need every prefix"
            )

    def label_rule(self) -> LabelRule:
        """The rule that makes labels of estimates."""
        return make_rule(self.rule, epsilon=self.epsilon, delta=self.delta)

    def k_of(self, initial: float) -> int:
        """K for a problem with the estimate MC(s_1)."""
        return self.k_hard if initial < self.hard_below else self.k_easy if initial > self.easy_above else self.k


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
    guide: Guess = no_guess,
) -> Outcome:
    """Labels the solutions of one problem with a completion model.

    Args:
        solver: The completion model.
        group: The solutions.
        partial: Its rollouts so far.
        config: How they are labelled.
        source: What every row says of its making.
        earlier: Rollouts of an earlier labelling, which are not paid for again.
        guide: Where a guided search begins.

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
        reused=earlier.of(group) if earlier is not None else None,
    )
    tree.restore(partial.known)
    return await label_group(tree, group, config, source, guide)


async def label_group(
    tree: RolloutTree,
    group: SolutionGroup,
    config: LabelingConfig,
    source: Mapping[str, Any],
    guide: Guess = no_guess,
) -> Outcome:
    """Labels the solutions of one problem.

    Args:
        tree: The problem's states.
        group: Its solutions.
        config: How they are labelled.
        source: What every row says of its making.
        guide: Where a guided search begins.

    Returns:
        A row for each solution, which is the solution with its `label` (ProcessBench's: the first wrong step), and in
        `extra`: `labels` (of each judged step), `mc` (the estimates after them, None where none was made and 0 from
        the first 0 on), `initial_mc`, `monte_carlo` with K and the outcomes of all rollouts (of the problem and of
        each prefix, as strings of `0` and `1`), and `labelled_by`.

    Raises:
        ItemFailed: The generator failed.
    """
    problem = tree.state("")
    await tree.sample(problem, config.k)
    initial = sum(problem.outcomes[: config.k]) / config.k
    k = config.k_of(initial)
    solutions = await asyncio.to_thread(_graded, group)
    labelings = [_Labeling(tree, solution, k, config, guide(solution)) for solution in solutions]
    labels = await gathered(labeling.run() for labeling in labelings)
    states = [state for state in tree.states.values() if state.known is None]
    equal = sum(len(state.outcomes) - state.reused > 1 and len(state.texts) == 1 for state in states)
    wrong = sum(first_error(found) >= 0 for found in labels)
    return Outcome(
        rows=[labeling.row(found, source) for labeling, found in zip(labelings, labels, strict=True)],
        counts={
            "problems": 1,
            "problems_solved": initial,
            f"problems_with_k_{k}": 1,
            "solutions": len(solutions),
            "solutions_with_an_error": wrong,
            "steps_labelled": sum(map(len, labels)),
            "steps_labelled_wrong": sum(found.count(False) for found in labels),
            "states_sampled": sum(len(state.outcomes) > 0 for state in states),
            "rollouts": sum(len(state.outcomes) - state.reused for state in states),
            "rollouts_reused": sum(state.reused for state in states),
            "tokens": sum(state.tokens for state in states),
            **({"states_with_equal_rollouts": equal} if equal else {}),
            **({"problems_with_noisy_labels": 1} if false_alarms(config.label_rule(), initial, k) > NOISY else {}),
        },
    )


def solved_share(summary: StageSummary) -> float | None:
    """The share of the problems that the completion model solves at a try.

    None if an earlier version, which did not count it, made the labels.
    """
    counts = summary.counts
    return counts["problems_solved"] / counts["problems"] if "problems_solved" in counts else None


def misfit(rule: str, summary: StageSummary) -> str | None:
    """What a finished labelling says against its rule: a sentence or two, None where nothing does."""
    noisy, share = int(summary.counts.get("problems_with_noisy_labels", 0)), solved_share(summary)
    if 2 * noisy <= summary.items:
        return None
    solves = "" if share is None else f"solves {100 * share:.1f} % of the problems at a try, and "
    return (
        f"The rule {rule} does not fit these estimates. The completion model {solves}succeeds so seldom on {noisy} of "
        f"{summary.items} problems that more than {100 * NOISY:.0f} % of the steps that change nothing are labelled "
        "wrong by chance."
    )


def _graded(group: SolutionGroup) -> list[Solution]:
    """The solutions with `final_answer_correct` filled in where it is not known."""
    unknown = [solution for solution in group.solutions if solution.final_answer_correct is None]
    grades = grading.grade_many([("\n\n".join(solution.steps), group.answer) for solution in unknown])
    correct = {solution.id: grade.correct for solution, grade in zip(unknown, grades, strict=True)}
    return [
        replace(solution, final_answer_correct=correct.get(solution.id, solution.final_answer_correct))
        for solution in group.solutions
    ]


class _Labeling:
    """The labelling of one solution.

    It looks at no more of a state's rollouts than it has asked for itself, though another solution that shares the
    state may have asked for more: what it decides does not depend on when others run.
    """

    def __init__(self, tree: RolloutTree, solution: Solution, k: int, config: LabelingConfig, guess: int | None):
        self.tree, self.solution, self.config, self.k = tree, solution, config, k
        self.guess = guess if config.search == "guided" else None
        self.rule, self.stops_early = config.label_rule(), config.stopping == "exact"
        self.separator = config.separator if config.separator is not None else separator_of(solution)
        steps = solution.steps
        self.states = [tree.state(prefix_text(steps[:t], self.separator)) for t in range(len(steps))]
        complete = tree.state(prefix_text(steps, self.separator), known=int(bool(solution.final_answer_correct)))
        self.states.append(complete)
        self.planned = [max(config.k, k), *([k] * (len(steps) - 1)), 0]
        self.seen = [config.k, *([0] * len(steps))]

    async def run(self) -> list[bool]:
        """Labels of the steps that are judged."""
        if self.config.search != "linear":
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
        step = self.config.rollout_batch if self.stops_early else self.planned[t]
        self.seen[t] = min(self.seen[t] + step, self.planned[t])
        await self.tree.sample(self.states[t], self.seen[t])

    async def _decide(self, t: int) -> bool:
        """Whether step t (from 1), which leads from state t - 1 to state t, is correct."""
        while True:
            earlier = [self._count(s) for s in range(1, t)]
            if any(count.complete and not count.successes for count in earlier):
                return False  # zero stays zero
            before, after = self._count(t - 1), self._count(t)
            possible = frozenset({True, False})
            if self.stops_early or (before.complete and after.complete):
                possible = possible_labels(self.rule, before, after, first=t == 1)
            if True not in possible:
                return False
            # A state without a success so far may be where everything was lost.
            open_states = [s for s, count in enumerate(earlier, start=1) if not count.successes]
            if False not in possible and not open_states:
                return True
            if open_states:
                await self._look_further(open_states[0])
            elif after.complete or (self.rule.compares and not before.complete and before.trials < after.trials):
                await self._look_further(t - 1)
            else:
                await self._look_further(t)

    async def _search(self) -> list[bool]:
        """Binary search for the first step after which no rollout reaches the answer.

        With a guess, the states before and after that step come first. What they say of others is not sampled again.
        So every state is one of these two or one that the search without a guess samples. The state before the step
        is the first one, because it is cheap where the guess is right: one success is enough.
        """
        last = len(self.states) - 1
        if self.states[last].known:
            return [True] * last
        alive, lost = 0, last  # the last state that is known to be alive, and the first that is known to be lost

        async def look(t: int) -> bool:
            nonlocal alive, lost
            if alive < t < lost:
                if await self._is_alive(t):
                    alive = t
                else:
                    lost = t
            return t <= alive

        if self.guess is not None:
            await look(self.guess)
            await look(self.guess + 1)
        low, high = 0, last
        while high - low > 1:
            middle = (low + high) // 2
            if await look(middle):
                low = middle
            else:
                high = middle
        return [True] * (high - 1) + [False]

    async def _is_alive(self, t: int) -> bool:
        while not self._count(t).complete:
            if self.stops_early and self._count(t).successes:
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
