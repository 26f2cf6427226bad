"""Several verifiers on the same solutions as tables, as JSON values and as a page that shows where they differ."""

from __future__ import annotations

import dataclasses
import math
from collections import ChainMap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genprm_trl.cards.tables import markdown_table
from genprm_trl.metrics.comparison import COMPARED, Comparison, compare_verdicts
from genprm_trl.metrics.estimates import FEWEST_ROWS, ScoreEstimate
from genprm_trl.records import Solution, Verdict
from genprm_trl.verdict_report.content import Entry
from genprm_trl.verdict_report.figures import NO_LABELS, ONE_CLASS
from genprm_trl.verdict_report.page import Table, check_output, write_page
from genprm_trl.verdict_report.reading import Matched, match_files
from genprm_trl.verifier.ensemble import mean_verdict

MEAN = "mean of all"
_TITLES = dict(zip(COMPARED, ("errors found", "correct kept", "F1", "AUROC", "calibration error"), strict=True))
# Of each verifier these have an interval, and these are compared.
_WITH_INTERVAL = ("f1", "step_auroc", "step_ece")


@dataclass(slots=True)
class ComparisonReport:
    """What a comparison found.

    Attributes:
        tables: The figures for a person to read.
        notes: What must be known to read them: how solutions were chosen, and what is in no score.
        numbers: The same as JSON values.
    """

    tables: list[Table]
    notes: list[str]
    numbers: dict[str, Any]

    def markdown(self) -> str:
        """Tables and notes in Markdown."""
        parts = [f"**{each.title}**\n\n{markdown_table(each.header, each.rows)}" for each in self.tables]
        return "\n".join([*parts, *(f"- {note}" for note in self.notes), ""])


def write_comparison(
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    common: bool = False,
    solutions: Iterable[Solution] | None = None,
    follow: Any = iter,
) -> ComparisonReport:
    """Compares files of verdicts on the same solutions, and writes the page of where they differ.

    Beside the files' verifiers stands their ensemble, the mean of their rewards; see `verifier.Ensemble`. A solution
    on which one of them failed is in no figure. It is on the page.

    Args:
        paths: Files that `genprm verify` wrote, or samples of the lm-evaluation-harness; at least two.
        output: The HTML file, replaced as a whole if it exists.
        common: Compare the solutions that all files judge, instead of refusing files that differ in them.
        solutions: The judged solutions: texts and labels; see `write_report`.
        follow: Wraps the iterator over each file's verdicts, to show progress.

    Raises:
        DataError: A file cannot be read or a row is bad; files differ in their labels or, unless `common`, in their
            solutions; or the page cannot be written.
        ConfigError: There are fewer than two files, or `output` is one of them or a directory.
    """
    files, output = [Path(path) for path in paths], Path(output)
    check_output(output, files)
    matched = match_files(files, common=common, solutions=solutions, follow=follow)
    report = make_report(matched)
    names = [file.name for file in matched.files]
    entries = [_entry(matched, id) for id in matched.ids]
    write_page(
        output,
        ", ".join(names),
        [entry.row for entry in entries],
        (entry.block for entry in entries),
        verifiers=names,
        tables=report.tables,
        notes=report.notes,
    )
    return report


def make_report(matched: Matched) -> ComparisonReport:
    """The figures of matched files."""
    files, names = matched.files, [file.name for file in matched.files]
    usable = [id for id in matched.ids if not any(file.verdicts[id].has_failed for file in files)]
    verdicts = [[file.verdicts[id] for id in usable] for file in files]
    mean, why_not = _mean(names, verdicts)
    if mean:
        verdicts.append(mean)
        names.append(MEAN)
    notes = _notes(matched, usable)
    if not usable:
        return ComparisonReport([], notes, {"solutions": len(matched.ids), "notes": notes})
    result = compare_verdicts(verdicts)
    notes += _notes_on_scores(result, len(usable))
    if why_not:
        notes.append(why_not)
    seconds = [file.seconds for file in files]
    known = [each for each in seconds if each is not None]
    if mean:
        seconds.append(sum(known) if len(known) == len(files) else None)
    tables = [_table_of_verifiers(names, verdicts, seconds, result)]
    if result.scores:
        tables.append(_table_of_differences(names, result))
    rows = [[name, *(f"{value:.1f}" for value in row)] for name, row in zip(names, result.agreement, strict=True)]
    tables.append(Table("Solutions with the same prediction, per cent", ["", *names], rows))
    return ComparisonReport(tables, notes, _numbers(matched, names, verdicts, seconds, result, notes))


def _mean(names: Sequence[str], verdicts: Sequence[Sequence[Verdict]]) -> tuple[list[Verdict], str]:
    """The ensemble's verdicts, or why they are not known: beyond its end a verdict does not say what it would be."""
    thresholds = {verdict.threshold for each in verdicts for verdict in each}
    threshold = thresholds.pop() if len(thresholds) == 1 else 0.5
    found = [mean_verdict(row, threshold) for row in zip(*verdicts, strict=True)]
    open_ended = sum(
        one.prediction == -1 and len({len(verdict.rewards) for verdict in row}) > 1
        for one, row in zip(found, zip(*verdicts, strict=True), strict=True)
    )
    if open_ended:
        return [], (
            f"{MEAN}: not known. In {open_ended} solutions some verifiers judged fewer steps than others, and the "
            "mean of the shared steps flags none; judge all with --stop never."
        )
    return found, ""


def _notes(matched: Matched, usable: Sequence[str]) -> list[str]:
    files, ids = matched.files, matched.ids
    notes = []
    if any(matched.left_out):
        left = ", ".join(f"{n:,} of {file.name}" for file, n in zip(files, matched.left_out, strict=True) if n)
        notes.append(
            f"Left out, since not all files judge these solutions: {left}."
            + (f" {matched.other_text:,} ids stand for different texts." if matched.other_text else "")
        )
    if matched.without_solution:
        notes.append(f"The texts of {matched.without_solution:,} solutions are not among those that were given.")
    if len(usable) < len(ids):
        failed = ((file.name, sum(file.verdicts[id].has_failed for id in ids)) for file in files)
        notes.append(
            f"{len(ids) - len(usable):,} of {len(ids):,} solutions are in no figure, since a verifier failed on them: "
            + ", ".join(f"{name} on {count:,}" for name, count in failed if count)
            + "."
        )
    thresholds = {file.name: sorted({file.verdicts[id].threshold for id in ids}) for file in files}
    if len({tuple(each) for each in thresholds.values()}) > 1 or any(len(each) > 1 for each in thresholds.values()):
        said = "; ".join(f"{name} {', '.join(f'{t:g}' for t in each)}" for name, each in thresholds.items())
        notes.append(f"Thresholds differ: {said}. Each prediction is by its own, that of {MEAN} by 0.5.")
    for file in files:
        unread = sum(file.verdicts[id].scored_prediction is None for id in usable)
        if unread:
            notes.append(f"{file.name} has no verdict on {unread:,} solutions. They count as wrong.")
    return notes


def _notes_on_scores(result: Comparison, solutions: int) -> list[str]:
    if not result.scores:
        return [NO_LABELS]
    notes = [
        f"{result.labelled:,} labelled of {solutions:,} solutions, with {result.steps:,} steps up to the first wrong "
        "one. Per cent; 95 % bootstrap intervals over solutions, for differences over the same resamples."
    ]
    if result.unshared:
        notes.append(
            f"{result.unshared:,} such steps were not judged by all. AUROC and calibration error leave them out."
        )
    if math.isnan(result.scores[0]["f1"].value):
        notes.append(ONE_CLASS)
    if result.labelled < FEWEST_ROWS:
        notes.append(f"Too few solutions to say which is better: {result.labelled}, and it takes {FEWEST_ROWS}.")
    return notes


def _table_of_verifiers(
    names: Sequence[str], verdicts: Sequence[Sequence[Verdict]], seconds: Sequence[float | None], result: Comparison
) -> Table:
    header, rows = ["verifier"], [[name] for name in names]
    for score in ("f1", "error_acc", "correct_acc", "step_auroc", "step_ece") if result.scores else ():
        header += [_TITLES[score], "95 % interval"] if score in _WITH_INTERVAL else [_TITLES[score]]
        for row, scores in zip(rows, result.scores, strict=True):
            row += _cells(scores[score]) if score in _WITH_INTERVAL else _cells(scores[score])[:1]
    header += ["flagged", "tokens a solution"]
    for row, each in zip(rows, verdicts, strict=True):
        row += [f"{100 * _flagged(each) / len(each):.1f}", f"{_tokens(each) / len(each):,.0f}"]
    if any(took is not None for took in seconds):
        header.append("seconds a solution")
        for row, took in zip(rows, seconds, strict=True):
            row.append("" if took is None else f"{took:.3g}")
    return Table(f"{len(verdicts[0]):,} solutions", header, rows)


def _table_of_differences(names: Sequence[str], result: Comparison) -> Table:
    header = ["difference"]
    for score in _WITH_INTERVAL:
        header += [_TITLES[score], "95 % interval"]
    rows = []
    for (i, j), scores in result.differences.items():
        cells = [cell for score in _WITH_INTERVAL for cell in _cells(scores[score], "+")]
        only = [str(result.only_right[i][j]), str(result.only_right[j][i])]
        rows.append([f"{names[i]} minus {names[j]}", *cells, *only])
    return Table("Paired differences", [*header, "only the first is right", "only the second"], rows)


def _cells(score: ScoreEstimate, sign: str = "") -> list[str]:
    if math.isnan(score.value):
        return ["undefined", ""]
    interval = "" if math.isnan(score.low) else f"{score.low:{sign}.1f} to {score.high:{sign}.1f}"
    return [f"{score.value:{sign}.1f}", interval]


def _tokens(verdicts: Sequence[Verdict]) -> int:
    return sum(verdict.num_tokens for verdict in verdicts)


def _flagged(verdicts: Sequence[Verdict]) -> int:
    return sum(verdict.scored_prediction not in (None, -1) for verdict in verdicts)


def _numbers(
    matched: Matched,
    names: Sequence[str],
    verdicts: Sequence[Sequence[Verdict]],
    seconds: Sequence[float | None],
    result: Comparison,
    notes: Sequence[str],
) -> dict[str, Any]:
    paths = [str(file.path) for file in matched.files] + [None]
    verifiers = [
        {
            "name": name,
            "file": path,
            "scores": {key: _values(value) for key, value in result.scores[index].items()} if result.scores else None,
            "flagged": _flagged(each),
            "without_verdict": sum(verdict.scored_prediction is None for verdict in each),
            "tokens": _tokens(each),
            "seconds_per_solution": seconds[index],
            "thresholds": sorted({verdict.threshold for verdict in each}),
        }
        for index, (name, path, each) in enumerate(zip(names, paths, verdicts, strict=False))
    ]
    differences = [
        {
            "first": names[i],
            "second": names[j],
            "scores": {key: _values(value) for key, value in scores.items()},
            "only_first_right": result.only_right[i][j],
            "only_second_right": result.only_right[j][i],
        }
        for (i, j), scores in result.differences.items()
    ]
    left_out = {file.name: count for file, count in zip(matched.files, matched.left_out, strict=True)}
    return {
        "solutions": len(matched.ids),
        "failed": len(matched.ids) - len(verdicts[0]),
        "labelled": result.labelled,
        "steps": result.steps,
        "left_out": left_out,
        "verifiers": verifiers,
        "differences": differences,
        "agreement": result.agreement,
        "notes": list(notes),
    }


def _values(score: ScoreEstimate) -> dict[str, float | None]:
    """An estimate as JSON values; JSON has no NaN."""
    return {name: None if math.isnan(value) else value for name, value in dataclasses.asdict(score).items()}


def _entry(matched: Matched, id: str) -> Entry:
    """A solution with the verdicts of all files: one block of details for each, with blanks between."""
    entries = [file.entries[id] for file in matched.files]
    names = [file.name for file in matched.files]
    own = [key for key in entries[0].row if key not in ("id", "problem", "steps", "final")]
    first, *others = (
        {**{key: entry.row[key] for key in own}, "verifier": name} for entry, name in zip(entries, names, strict=True)
    )
    row = dict(ChainMap(first, *(entry.row for entry in entries)))  # whichever of them knows the problem
    return Entry(row | {"others": others}, " ".join(entry.block for entry in entries))
