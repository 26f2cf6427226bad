"""What was measured on real solutions: a table for each benchmark, in Markdown and as JSON values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from genprm_trl.cards.tables import markdown_table
from genprm_trl.metrics.estimates import ScoreEstimate, mean_estimate, processbench_by_votes
from genprm_trl.records import Solution, Verdict
from genprm_trl.selection.judged_pool import JudgedPool, choose, judged_pools
from genprm_trl.smollm2.benchmarks import TITLES, Benchmark
from genprm_trl.smollm2.equations import holds, rule_prediction, stated_equations

NAMES = {
    "rule": "hand-written rule",
    "discriminative": "discriminative",
    "direct": "direct",
    "genprm": "GenPRM, code_execution",
}
ARITHMETIC, OTHER = "a false equation", "something else"


@dataclass(frozen=True, slots=True)
class Measured:
    """How one verifier did on one benchmark.

    Attributes:
        verifier: A key of `NAMES`.
        n: Rationales that were averaged.
        scores: `error_acc`, `correct_acc`, `f1` and `accuracy` (exact predictions) of labelled solutions; or
            `best_of`, the share of problems for which a right solution was chosen.
        found: Wrong solutions whose first error was named exactly, and all of them, by what is wrong there.
        tokens: Tokens that were generated; 0 for a verifier that writes none.
        seconds: What judging took.
    """

    verifier: str
    n: int
    scores: Mapping[str, ScoreEstimate]
    found: Mapping[str, tuple[int, int]]
    tokens: int = 0
    seconds: float = 0.0


def measure(
    benchmark: Benchmark, verifier: str, verdicts: Sequence[Verdict], *, seconds: float, seed: int
) -> list[Measured]:
    """What a verifier's verdicts are worth: those of one rationale, and of all.

    Args:
        benchmark: What was judged.
        verifier: A key of `NAMES`.
        verdicts: Its verdicts, in the order of the solutions.
        seconds: What judging took.
        seed: Fixes the bootstrap's resamples.
    """
    tokens = sum(verdict.num_tokens for verdict in verdicts)
    if benchmark.pools:
        judged = judged_pools(benchmark.pools, verdicts, file=benchmark.name)
        n = max(len(verdict.chains) for verdict in verdicts)
        return [Measured(verifier, n, {"best_of": _best_of(judged, "best", seed)}, {}, tokens, seconds)]
    labels = [_label(solution) for solution in benchmark.solutions]
    chains = [verdict.chain_rewards for verdict in verdicts]
    most = min(len(chain) for chain in chains)
    found = _found(benchmark.solutions, [verdict.scored_prediction for verdict in verdicts])
    measured = []
    for n in sorted({1, most}):
        scores = dict(processbench_by_votes(labels, chains, n, seed=seed))
        if n == most:
            hits = [v.scored_prediction == label for v, label in zip(verdicts, labels, strict=True)]
            scores["accuracy"] = mean_estimate(hits, seed=seed)
        # All rationales are written in one run, so what one of them costs is a share of it.
        share = n / most
        measured.append(
            Measured(verifier, n, scores, found if n == most else {}, round(tokens * share), seconds * share)
        )
    return measured


def measure_rule(benchmark: Benchmark, seed: int) -> list[Measured]:
    """What executing the equations that a hand-written rule can read is worth; nothing where there are no labels."""
    if benchmark.pools:
        return []
    predictions = [rule_prediction(solution.steps) for solution in benchmark.solutions]
    labels = [_label(solution) for solution in benchmark.solutions]
    rewards = [
        [[0.0 if step == prediction else 1.0 for step in range(len(solution.steps))]]
        for solution, prediction in zip(benchmark.solutions, predictions, strict=True)
    ]
    scores = dict(processbench_by_votes(labels, rewards, 1, seed=seed))
    scores["accuracy"] = mean_estimate([p == label for p, label in zip(predictions, labels, strict=True)], seed=seed)
    return [Measured("rule", 1, scores, _found(benchmark.solutions, predictions))]


def _best_of(judged: Sequence[JudgedPool], rule: Any, seed: int) -> ScoreEstimate:
    right = [each.pool.correct[choose(each, rule, "min").index] for each in judged]
    return mean_estimate(right, seed=seed)


def _label(solution: Solution) -> int:
    return -1 if solution.label is None else solution.label


def kind_of_error(solution: Solution) -> str:
    """Whether the first wrong step states an equation that does not hold, as far as a hand-written rule reads it."""
    equations = stated_equations(solution.steps[_label(solution)])
    return OTHER if all(map(holds, equations)) else ARITHMETIC


def _found(solutions: Sequence[Solution], predictions: Sequence[int | None]) -> dict[str, tuple[int, int]]:
    right, all_of = Counter[str](), Counter[str]()
    for solution, prediction in zip(solutions, predictions, strict=True):
        if _label(solution) >= 0:
            kind = kind_of_error(solution)
            all_of[kind] += 1
            right[kind] += prediction == solution.label
    return {kind: (right[kind], all_of[kind]) for kind in (ARITHMETIC, OTHER) if all_of[kind]}


def table(benchmark: Benchmark, measured: Sequence[Measured], seed: int = 0) -> str:
    """A benchmark's figures in Markdown, in per cent, with 95 % bootstrap intervals over solutions or problems."""
    title = f"**{TITLES[benchmark.name]}** ({len(benchmark.solutions)} solutions"
    if benchmark.pools:
        judged = [JudgedPool(pool) for pool in benchmark.pools]
        chance = mean_estimate([sum(pool.correct) / len(pool.correct) for pool in benchmark.pools], seed=seed)
        oracle = mean_estimate([any(pool.correct) for pool in benchmark.pools], seed=seed)
        rows = [
            ["chance", "", *_cells(chance), "", ""],
            ["most frequent answer", "", *_cells(_best_of(judged, "majority", seed)), "", ""],
        ]
        rows += [
            [NAMES[each.verifier], str(each.n), *_cells(each.scores["best_of"]), *_cost(each)] for each in measured
        ]
        rows.append(["oracle", "", *_cells(oracle), "", ""])
        head = ["chosen by", "N", "right", "95 % interval", "tokens", "seconds"]
        return f"{title} of {len(benchmark.pools)} problems)\n\n{markdown_table(head, rows)}"
    kinds = [kind for kind in (ARITHMETIC, OTHER) if any(kind in each.found for each in measured)]
    rows = []
    for each in measured:
        scores = [_value(each.scores.get(name)) for name in ("accuracy", "error_acc", "correct_acc")]
        found = [f"{each.found[kind][0]} of {each.found[kind][1]}" if kind in each.found else "" for kind in kinds]
        name = "1" if each.n == 1 else f"Maj@{each.n}"
        rows.append([NAMES[each.verifier], name, *scores, *_cells(each.scores["f1"]), *found, *_cost(each)])
    head = ["verifier", "N", "accuracy", "error_acc", "correct_acc", "F1", "95 % interval"]
    head += [f"found: {kind}" for kind in kinds] + ["tokens", "seconds"]
    return f"{title})\n\n{markdown_table(head, rows)}"


def _value(score: ScoreEstimate | None) -> str:
    return "" if score is None else f"{score.value:.1f}"


def _cells(score: ScoreEstimate) -> list[str]:
    return [f"{score.value:.1f}", f"{score.low:.1f} to {score.high:.1f}"]


def _cost(measured: Measured) -> list[str]:
    return [f"{measured.tokens:,}" if measured.tokens else "", f"{measured.seconds:.0f}" if measured.seconds else ""]


def as_json(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """The figures as JSON values."""
    return [asdict(each) for each in measured]
