"""Choices and their accuracies for a person to read: rows, a table in Markdown, a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genprm_trl.cards.plots import Curve, plot_score_by_n
from genprm_trl.cards.tables import markdown_table
from genprm_trl.metrics.estimates import FEWEST_ROWS, mean_estimate
from genprm_trl.selection.judged_pool import Choice, JudgedPool, PoolAccuracies, Score


def choice_row(judged: JudgedPool, choice: Choice, rule: str, score: Score) -> dict[str, Any]:
    """The choice for one problem as a JSON object, with all candidates and their scores.

    Args:
        judged: The candidates.
        choice: What `choose` returned for them.
        rule: The rule that chose.
        score: The rule that turned step rewards into scores.
    """
    pool, index = judged.pool, choice.index
    nothing: list[Any] = [None] * len(pool.ids)
    scores = judged.scores(score) if judged.verdicts else nothing
    candidates = zip(pool.ids, judged.answers, scores, pool.correct or nothing, strict=True)
    return {
        "id": pool.id,
        "problem": pool.problem,
        "answer": pool.answer,
        "chosen": pool.ids[index],
        "chosen_answer": judged.answers[index],
        "steps": pool.steps[index],
        "correct": pool.correct[index] if pool.correct else None,
        "rule": rule,
        "value": choice.value,
        "candidates": [dict(zip(("id", "answer", "score", "correct"), each, strict=True)) for each in candidates],
        # As a list: answers are any text, and an object's fields would differ from row to row.
        "answers": [{"answer": answer, "value": value} for answer, value in choice.by_answer.items()],
    }


def accuracy_report(accuracies: PoolAccuracies, judged: Sequence[JudgedPool], rule: str, score: Score) -> str:
    """The accuracies in Markdown: a table, what may be concluded of the rule, and a table of budgets.

    Args:
        accuracies: What `measure` returned.
        judged: The pools that were measured.
        rule: The rule to compare with chance and with the majority vote.
        score: The rule that turns step rewards into scores.
    """
    most = accuracies.sizes[-1]
    rows = []
    for way in accuracies.values:
        estimates = [accuracies.estimate(way, n) for n in accuracies.sizes]
        last = estimates[-1]
        cells = [f"{estimate.value:.1f}" for estimate in estimates]
        rows.append([_title(way), *cells, f"{last.low:.1f} to {last.high:.1f}"])
    header = ["right answers, per cent", *(f"N = {n}" for n in accuracies.sizes), f"95 % interval at N = {most}"]
    parts = [markdown_table(header, rows)]
    smallest = min(len(each.pool.ids) for each in judged)
    note = (
        f"{len(judged)} problems; expectations over all choices of N of a problem's candidates, intervals by the "
        "bootstrap over problems."
    )
    if smallest < most:
        note += f" Pools differ in size (from {smallest}); a problem with fewer than N takes part with all it has."
    parts.append(note + "\n")
    chosen = "majority" if rule == "majority" else f"{rule}_{score}"
    if len(judged) < FEWEST_ROWS:
        parts.append(f"Too few problems to say which way is better: {len(judged)}, and it takes {FEWEST_ROWS}.\n")
    elif chosen in accuracies.values and most > 1:
        for other in ("random", "majority"):
            if other != chosen:
                gap = accuracies.estimate(chosen, most, minus=other)
                verdict = "above" if gap.low > 0 else "below" if gap.high < 0 else "not told apart from"
                parts.append(
                    f"- {_title(chosen)} at N = {most} is {verdict} {_title(other)}: {gap.value:+.1f} points "
                    f"({gap.low:+.1f} to {gap.high:+.1f})"
                )
        parts.append("")
    ms = sorted({m for _, m in accuracies.by_budget})
    if len(ms) > 1:
        table = [
            [f"N = {n}", *(f"{mean_estimate(accuracies.by_budget[n, m]).value:.1f}" for m in ms)]
            for n in accuracies.sizes
        ]
        parts.append("Pessimistic verification by its budget, N candidates times M verifications of each:\n")
        parts.append(markdown_table(["candidates", *(f"M = {m}" for m in ms)], table))
    return "\n".join(parts)


def plot_accuracies(path: Path, accuracies: PoolAccuracies, score: Score, title: str) -> None:
    """Plots the accuracies of one score rule against N.

    Args:
        path: Where the picture goes.
        accuracies: What `measure` returned.
        score: The rule that turns step rewards into scores.
        title: The plot's title.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    curves = {}
    # The oracle bounds every choice; chance is where choosing begins.
    for way in ("pass", "majority", *(f"{rule}_{score}" for rule in ("best", "weighted", "pessimistic"))):
        if way in accuracies.values:
            estimates = {n: accuracies.estimate(way, n) for n in accuracies.sizes}
            curves[_title(way)] = Curve(
                {n: estimate.value for n, estimate in estimates.items()},
                {n: (estimate.low, estimate.high) for n, estimate in estimates.items()},
            )
    chance = accuracies.estimate("random", accuracies.sizes[0]).value
    plot_score_by_n(
        path,
        curves,
        {"chance": chance},
        title=title,
        ylabel="right answers (%)",
        xlabel="candidates a problem, N",
    )


def _title(way: str) -> str:
    kind, _, score = way.partition("_")
    return {
        "random": "chance",
        "majority": "majority vote",
        "pass": "oracle (pass@N)",
        "best": f"Best-of-N, {score}",
        "weighted": f"weighted vote, {score}",
        "pessimistic": f"pessimistic, {score}",
    }[kind]
