"""The candidates of a problem with their verdicts: which one to take, and what each rule is worth."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal, get_args

from genprm_trl.data.pools import Pool, vote_groups
from genprm_trl.errors import DataError
from genprm_trl.grading.extract import extract_answer
from genprm_trl.metrics.estimates import ScoreEstimate, mean_estimate
from genprm_trl.records import Solution, StepJudgement, Verdict
from genprm_trl.selection.accuracies import pass_at_k, pool_accuracies, subset_sizes, vote_accuracy
from genprm_trl.selection.aggregates import Aggregate, aggregate
from genprm_trl.selection.pessimistic import ALPHA, pessimistic_accuracy, pessimistic_values

# What scores a solution: its step rewards, or what a verifier says of it as a whole.
Score = Aggregate | Literal["solution"]
Rule = Literal["best", "weighted", "majority", "pessimistic"]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(slots=True)
class JudgedPool:
    """A pool and its verdicts.

    Attributes:
        pool: The candidates.
        verdicts: One per candidate, in order; empty if only votes count.
        answers: The final answer of each candidate; None where it marks none. Shape (M,).
        votes: Groups of equal answers, as in `Pool.votes`, but found without the reference, which the choice must not
            know. Shape (M,).
    """

    pool: Pool
    verdicts: Sequence[Verdict] = ()
    answers: list[str | None] = field(init=False)
    votes: list[int | None] = field(init=False)

    def __post_init__(self) -> None:
        self.answers = [extract_answer(text) for text in self.pool.texts]
        self.votes = vote_groups(self.answers)

    @property
    def has_failed(self) -> bool:
        """Whether the generator or the sandbox failed on one of the candidates. Such a pool is in no accuracy."""
        return any(verdict.has_failed for verdict in self.verdicts)

    def scores(self, rule: Score) -> list[float]:
        """The score of each candidate, from the averaged rewards of its steps; 0 without a verdict. Shape (M,).

        The rule `solution` takes what the verifier says of the whole solution. A rationale that does not say it counts
        as 0, here as in `verifications`.
        """
        if rule == "solution":
            return [0.0 if verdict.has_failed else verdict.solution_reward or 0.0 for verdict in self.verdicts]
        return [aggregate(rewards_to_choose_by(verdict), rule) for verdict in self.verdicts]

    @property
    def has_solution_scores(self) -> bool:
        """Whether a verdict says something of the whole solution."""
        return any(verdict.solution_reward is not None for verdict in self.verdicts)

    def verifications(self, rule: Score) -> list[list[float]]:
        """The score that each rationale alone gives a candidate. Shape (M, rationales)."""
        if rule == "solution":
            return [
                [0.0 if _has_failed(chain) else chain[-1].solution_reward or 0.0 for chain in verdict.chains]
                or [verdict.solution_reward or 0.0]
                for verdict in self.verdicts
            ]
        return [
            [
                0.0 if verdict.scored_prediction is None or _has_failed(chain) else _score(chain, rule)
                for chain in verdict.chains
            ]
            or [aggregate(verdict.rewards, rule)]  # of a verifier that writes none
            for verdict in self.verdicts
        ]

    @property
    def verifications_each(self) -> int:
        """Verifications that every candidate has at least."""
        return min((max(len(verdict.chains), 1) for verdict in self.verdicts), default=0)


def rewards_to_choose_by(verdict: Verdict) -> list[float]:
    """The averaged rewards of the steps. All are 0 where judging failed, or a step that decides has no verdict."""
    is_judged = not verdict.has_failed and verdict.scored_prediction is not None
    return verdict.rewards if is_judged else [0.0] * len(verdict.rewards)


def _has_failed(chain: Sequence[StepJudgement]) -> bool:
    return any(judgement.status == "error" for judgement in chain)


def _score(chain: Sequence[StepJudgement], rule: Aggregate) -> float:
    return aggregate([judgement.reward for judgement in chain], rule)


def judged_pools(pools: Iterable[Pool], verdicts: Iterable[Verdict], *, file: str) -> list[JudgedPool]:
    """Brings candidates and verdicts together.

    A verdict belongs to the candidate of its id. A candidate without one takes that of the very same text.

    Args:
        pools: The candidates.
        verdicts: Verdicts in any order; those of other solutions are ignored.
        file: The file of the verdicts, for messages.

    Raises:
        DataError: A candidate has no verdict, or one about another text, or one that judges no step.
    """
    by_id: dict[str, Verdict] = {}
    by_digest: dict[str, Verdict] = {}
    for verdict in verdicts:
        by_id[verdict.id] = verdict
        if verdict.solution_digest:
            by_digest.setdefault(verdict.solution_digest, verdict)
    pools = list(pools)
    missing = 0
    first_missing = ""

    def find(solution: Solution) -> Verdict | None:
        nonlocal missing, first_missing
        verdict = by_id.get(solution.id)
        if verdict is None or verdict.solution_digest not in ("", solution.digest):
            other = by_digest.get(solution.digest)
            if verdict is not None and other is None:
                raise DataError(
                    f"holds a verdict of '{solution.id}' about another text: the solution has changed, or the file "
                    "belongs to other data",
                    file=file,
                )
            verdict = other
        if verdict is None:
            missing += 1
            first_missing = first_missing or solution.id
        elif not verdict.rewards:
            raise DataError(f"the verdict of '{solution.id}' judges no step", file=file, field="rewards")
        return verdict

    found = [(pool, [find(solution) for solution in pool.solutions()]) for pool in pools]
    if missing:
        raise DataError(
            f"has no verdict of {missing} of the {sum(len(pool.ids) for pool in pools)} candidates, the first one "
            f"'{first_missing}'. With --model they are judged, and nothing is judged twice",
            file=file,
        )
    return [JudgedPool(pool, [verdict for verdict in of_pool if verdict is not None]) for pool, of_pool in found]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen of a pool.

    Attributes:
        index: The candidate.
        value: What it won with: its score, its answer's votes, weighted votes or pessimistic value.
        by_answer: The same for each answer, best first, where answers are what is chosen among.
    """

    index: int
    value: float
    by_answer: Mapping[str, float] = field(default_factory=dict)


def choose(judged: JudgedPool, rule: Rule, score: Score = "min", alpha: float = ALPHA) -> Choice:
    """Chooses a candidate.

    Args:
        judged: The candidates and, but for `majority`, their verdicts.
        rule: `best`: the candidate of the highest score (Best-of-N). `majority`: the answer with the most votes
            (self-consistency; Wang et al. 2022, arXiv 2203.11171). `weighted`: with the largest sum of scores.
            `pessimistic`: see `pessimistic`. Of the candidates that have the answer, the one with the highest score
            is taken, or the first one if there are no scores; the same decides between answers that are tied. Where
            no candidate marks an answer, all rules are `best`.
        score: Rule that turns step rewards into one score, or `solution`; see `JudgedPool.scores`.
        alpha: Weight of the penalty of `pessimistic`.

    Raises:
        ValueError: The rule needs verdicts.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}: expected one of {', '.join(RULES)}")
    scores = judged.scores(score) if judged.verdicts else None
    if scores is None and rule != "majority":
        raise ValueError(f"the rule {rule} needs verdicts")
    order = scores if scores is not None else [0.0] * len(judged.answers)

    def highest(indices: Sequence[int]) -> int:
        return max(indices, key=lambda index: order[index])

    everyone = range(len(judged.answers))
    if rule == "best" or all(vote is None for vote in judged.votes):
        index = highest(everyone)
        return Choice(index, order[index])
    values: dict[Hashable, float]
    if rule == "pessimistic":
        values = dict(pessimistic_values(judged.votes, judged.verifications(score), alpha))
    else:
        values = {}
        for index in everyone:
            vote = judged.votes[index]
            if vote is not None:
                values[vote] = values.get(vote, 0.0) + (1.0 if rule == "majority" else order[index])
    takers = {vote: highest([place for place in everyone if judged.votes[place] == vote]) for vote in values}
    # Among equals the answer that the best solution has, then the first.
    ranked = sorted(values, key=lambda vote: (-values[vote], -order[takers[vote]]))
    index = takers[ranked[0]]
    return Choice(index, values[ranked[0]], {str(judged.answers[takers[vote]]): values[vote] for vote in ranked})


@dataclass(frozen=True, slots=True)
class PoolAccuracies:
    """What the ways of choosing are worth on a set of pools.

    Attributes:
        sizes: The N measured. A problem with fewer candidates takes part with all it has.
        values: Way to N to the expected accuracy of each problem, in [0, 1]. The ways are those of
            `selection.pool_accuracies` and `pessimistic_SCORE`.
        by_budget: (N, M) to the accuracy of each problem, of pessimistic verification with N candidates and M
            verifications of each.
    """

    sizes: list[int]
    values: dict[str, dict[int, list[float]]]
    by_budget: dict[tuple[int, int], list[float]]

    def estimate(self, way: str, n: int, *, minus: str | None = None) -> ScoreEstimate:
        """The accuracy in per cent, or by how much it exceeds that of another way on the same problems."""
        values = self.values[way][n]
        if minus is not None:
            values = [a - b for a, b in zip(values, self.values[minus][n], strict=True)]
        return mean_estimate(values)

    def to_dict(self) -> dict[str, Any]:
        """All estimates, as JSON values."""

        def row(estimate: ScoreEstimate) -> dict[str, float]:
            return {"value": estimate.value, "low": estimate.low, "high": estimate.high}

        return {
            "accuracy": {way: {str(n): row(self.estimate(way, n)) for n in by_n} for way, by_n in self.values.items()},
            "pessimistic_by_budget": [
                {"candidates": n, "verifications_each": m, **row(mean_estimate(values))}
                for (n, m), values in self.by_budget.items()
            ],
        }


def measure(
    judged: Sequence[JudgedPool], *, score: Score = "min", alpha: float = ALPHA, seed: int = 0
) -> PoolAccuracies:
    """Accuracies against N: expectations over the subsets of each pool, for every way of choosing.

    Args:
        judged: The pools, of which it is known whether each candidate is right.
        score: Score rule of pessimistic verification; the other rules are measured with every score.
        alpha: Weight of the penalty of pessimistic verification.
        seed: Seed for drawing subsets, if there are too many to count all.

    Raises:
        ValueError: There are no pools, or of one it is not known what is right.
    """
    if not judged:
        raise ValueError("there are no pools to measure")
    sizes = subset_sizes(max(len(each.pool.ids) for each in judged))
    with_verdicts = all(each.verdicts for each in judged)
    with_solution_scores = with_verdicts and any(each.has_solution_scores for each in judged)
    budgets = subset_sizes(min(each.verifications_each for each in judged)) if with_verdicts else []
    values: dict[str, dict[int, list[float]]] = {}
    by_budget: dict[tuple[int, int], list[float]] = {(n, m): [] for m in budgets for n in sizes}
    for each in judged:
        correct, size = each.pool.correct, len(each.pool.ids)
        if len(correct) != size:
            raise ValueError(f"it is not known of each candidate of '{each.pool.id}' whether it is right")
        own = sorted({min(n, size) for n in sizes})
        if with_verdicts:
            rewards = [rewards_to_choose_by(verdict) for verdict in each.verdicts]
            more = {"solution": each.scores("solution")} if with_solution_scores else {}
            known = pool_accuracies(each.votes, correct, rewards, own, scores=more, seed=seed)
        else:
            known = {"random": sum(correct) / size}
            for n in own:
                known[f"majority@{n}"] = vote_accuracy(each.votes, correct, n, seed=seed)
                known[f"pass@{n}"] = pass_at_k(size, sum(correct), n)
        chains = each.verifications(score)

        def pessimistic(n: int, m: int, chains: list[list[float]] = chains, each: JudgedPool = each) -> float:
            """Over all disjoint groups of m verifications, so that each of them counts."""
            groups = each.verifications_each // m
            return fmean(
                pessimistic_accuracy(
                    each.votes,
                    each.pool.correct,
                    [fmean(scores[group * m : (group + 1) * m]) for scores in chains],
                    n,
                    verifications=m,
                    alpha=alpha,
                    seed=seed,
                )
                for group in range(groups)
            )

        if with_verdicts:
            for n in own:
                known[f"pessimistic_{score}@{n}"] = pessimistic(n, budgets[-1])
            for n, m in by_budget:
                by_budget[n, m].append(
                    known[f"pessimistic_{score}@{min(n, size)}"] if m == budgets[-1] else pessimistic(min(n, size), m)
                )
        ways = dict.fromkeys(name.partition("@")[0] for name in known)
        for way in ways:
            for n in sizes:
                name = way if way == "random" else f"{way}@{min(n, size)}"
                values.setdefault(way, {}).setdefault(n, []).append(known[name])
    return PoolAccuracies(sizes, values, by_budget)
