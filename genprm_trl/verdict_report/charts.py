"""The charts as lists of marks with positions, which a template writes as SVG.

Shapes carry class names and no colours, so that the page's style sheet decides on light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from genprm_trl.verdict_report.figures import HISTOGRAM_BINS, NO_LABELS, Figures

WIDTH, HEIGHT = 340, 236
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 10, 44  # margins


class Tick(NamedTuple):
    """A mark on an axis."""

    at: float
    text: str


class Bar(NamedTuple):
    """A bar with its title, which shows when it is pointed at; the style sheet knows its kind."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


class Line(NamedTuple):
    """A line or the outline of a band."""

    points: str
    kind: str


class Point(NamedTuple):
    """A point with the ends of its interval (or None), of a shape named by its kind."""

    x: float
    y: float
    kind: str
    title: str
    low: float | None = None
    high: float | None = None


class Rule(NamedTuple):
    """A vertical line with a word at its top."""

    x: float
    text: str
    flip: bool  # the word goes to the left


@dataclass(slots=True)
class Chart:
    """A chart, and the same numbers as a table for whoever does not see it.

    Attributes:
        name: Prefix of the chart's ids in the page.
        title: What is shown.
        summary: What the chart says, in a sentence or two.
        missing: Why there is nothing to show; then everything below is empty.
        header, rows: The table.
    """

    name: str
    title: str
    summary: str = ""
    missing: str = ""
    x_label: str = ""
    y_label: str = ""
    x_ticks: list[Tick] = field(default_factory=list)
    y_ticks: list[Tick] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    bands: list[Line] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)
    header: Sequence[str] = ()
    rows: list[Sequence[Any]] = field(default_factory=list)
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def draw(figures: Figures) -> list[Chart]:
    """The page's charts, in order."""
    return [_histogram(figures), _reliability(figures), _by_n(figures), _by_threshold(figures)]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 2)


def _x(low: float = 0.0, high: float = 1.0) -> Callable[[float], float]:
    return _scale(low, high, LEFT, WIDTH - RIGHT)


def _y(low: float = 0.0, high: float = 1.0) -> Callable[[float], float]:
    return _scale(low, high, HEIGHT - BOTTOM, TOP)


def _ticks(place: Callable[[float], float], values: Iterable[float], form: str = "g") -> list[Tick]:
    return [Tick(place(value), format(value, form)) for value in values]


def _polyline(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def round_steps(highest: float, most: int = 5) -> list[int]:
    """Multiples of 1, 2 or 5 times a power of ten from 0 to the first one at or above `highest`.

    Examples:
        >>> round_steps(23)
        [0, 5, 10, 15, 20, 25]
        >>> round_steps(0)
        [0, 1]
    """
    size = 1
    while math.ceil(highest / size) > most:
        size = size * 5 // 2 if str(size)[0] == "2" else size * 2
    return [size * number for number in range(max(math.ceil(highest / size), 1) + 1)]


def _threshold_rule(figures: Figures, place: Callable[[float], float]) -> list[Rule]:
    if figures.threshold is None or not 0 <= figures.threshold <= 1:
        return []
    return [Rule(place(figures.threshold), "threshold", figures.threshold > 0.7)]


def _histogram(figures: Figures) -> Chart:
    counts = figures.histogram
    names = [name for name in ("right", "wrong", "unknown") if any(counts[name])]
    chart = Chart("rewards", "Rewards of steps", x_label="reward, P(Yes)", y_label="steps")
    totals = [sum(counts[name][number] for name in names) for number in range(HISTOGRAM_BINS)]
    steps = sum(totals)
    if not steps:
        chart.missing = "No step was judged."
        return chart
    if figures.threshold is not None:
        below = "the threshold" if figures.threshold != 0.5 else "0.5"
        chart.summary = f"{steps:,} judged steps; the dashed line is {below}."
    else:
        chart.summary = f"{steps:,} judged steps."
    words = {"right": "right", "wrong": "first wrong", "unknown": "not labelled"}
    y_values = round_steps(max(totals))
    x, y = _x(), _y(0, y_values[-1])
    chart.x_ticks = _ticks(x, (0, 0.25, 0.5, 0.75, 1))
    chart.y_ticks = _ticks(y, y_values, ",")
    chart.rules = _threshold_rule(figures, x)
    for number in range(HISTOGRAM_BINS):
        low, high = number / HISTOGRAM_BINS, (number + 1) / HISTOGRAM_BINS
        base = 0
        for name in names:
            if count := counts[name][number]:
                top = y(base + count)
                chart.bars.append(
                    Bar(
                        x(low) + 0.75,
                        top,
                        round(x(high) - x(low) - 1.5, 2),
                        round(y(base) - top, 2),
                        name,
                        f"{low:.2f} to {high:.2f}: {count:,} {words[name]}",
                    )
                )
                base += count
        if totals[number]:
            chart.rows.append((f"{low:.2f} to {high:.2f}", *(f"{counts[name][number]:,}" for name in names)))
    chart.header = ("reward", *(words[name] for name in names))
    if names != ["unknown"]:
        chart.legend = [(name, words[name]) for name in names]
    return chart


def _reliability(figures: Figures) -> Chart:
    chart = Chart("reliability", "Reliability", x_label="mean reward of the steps", y_label="share that is right")
    if not figures.reliability:
        chart.missing = NO_LABELS
        return chart
    chart.summary = f"Calibration error {figures.calibration_error:.3f}"
    if figures.auroc is not None:
        chart.summary += f", area under the ROC curve {figures.auroc:.3f}"
    chart.summary += f", over {figures.known_steps:,} steps up to the first wrong one; bars are 95 % intervals."
    x, y = _x(), _y()
    chart.x_ticks = _ticks(x, (0, 0.25, 0.5, 0.75, 1))
    chart.y_ticks = _ticks(y, (0, 0.25, 0.5, 0.75, 1))
    chart.lines = [Line(_polyline([(x(0), y(0)), (x(1), y(1))]), "ideal")]
    places = [(x(one.mean_reward), y(one.right)) for one in figures.reliability]
    chart.lines.append(Line(_polyline(places), "main"))
    for one, (px, py) in zip(figures.reliability, places, strict=True):
        said = f"{one.steps:,} steps with mean reward {one.mean_reward:.2f}: {one.right:.0%} right"
        chart.points.append(Point(px, py, "main", said, y(one.low), y(one.high)))
        chart.rows.append(
            (f"{one.steps:,}", f"{one.mean_reward:.3f}", f"{one.right:.3f}", f"{one.low:.3f} to {one.high:.3f}")
        )
    chart.header = ("steps", "mean reward", "share right", "95 % interval")
    chart.legend = [("main", "measured"), ("ideal", "calibrated")]
    return chart


def _by_n(figures: Figures) -> Chart:
    chart = Chart("by-n", "F1 against rationales", x_label="rationales averaged, N", y_label="ProcessBench F1 (%)")
    if figures.no_by_n:
        chart.missing = figures.no_by_n
        return chart
    scores = figures.by_n
    first, last = min(scores), max(scores)
    chart.summary = f"From {scores[first].value:.1f} with one to {scores[last].value:.1f} with {last}."
    if figures.chains[0] < figures.chains[1]:
        chart.summary += f" Some solutions have more rationales, up to {figures.chains[1]}; no curve can use them."
    chart.summary += " Averages over disjoint groups of rationales, with 95 % intervals."
    x, y = _x(-0.15, math.log2(last) + 0.15), _y(0, 100)
    chart.x_ticks = [Tick(x(math.log2(n)), str(n)) for n in scores if n & (n - 1) == 0 or n == last]
    chart.y_ticks = _ticks(y, (0, 25, 50, 75, 100))
    chart.lines = [Line(_polyline((x(math.log2(n)), y(score.value)) for n, score in scores.items()), "main")]
    bounded = {n: score for n, score in scores.items() if not math.isnan(score.low)}
    upper = [(x(math.log2(n)), y(score.high)) for n, score in bounded.items()]
    lower = [(x(math.log2(n)), y(score.low)) for n, score in bounded.items()]
    chart.bands = [Line(_polyline(upper + lower[::-1]), "main")] if len(bounded) > 1 else []
    for n, score in scores.items():
        interval = f"{score.low:.1f} to {score.high:.1f}" if n in bounded else "undefined"
        chart.points.append(
            Point(x(math.log2(n)), y(score.value), "main", f"N = {n}: F1 {score.value:.1f} ({interval})")
        )
        chart.rows.append((str(n), f"{score.value:.1f}", interval))
    chart.header = ("N", "F1 (%)", "95 % interval")
    return chart


def _by_threshold(figures: Figures) -> Chart:
    chart = Chart("by-threshold", "F1 against the threshold", x_label="threshold", y_label="per cent")
    if figures.no_by_threshold:
        chart.missing = figures.no_by_threshold
        return chart
    scores = figures.by_threshold
    x, y = _x(), _y(0, 100)
    chart.x_ticks = _ticks(x, (0, 0.25, 0.5, 0.75, 1))
    chart.y_ticks = _ticks(y, (0, 25, 50, 75, 100))
    names = {"error_acc": "errors found", "correct_acc": "correct kept", "f1": "F1"}
    for name in names:
        points = [(x(threshold), y(values[name] or 0.0)) for threshold, values in scores.items()]
        chart.lines.append(Line(_polyline(points), {"f1": "main"}.get(name, name)))
    chart.rules = _threshold_rule(figures, x)
    if figures.scores is not None and figures.threshold is not None:
        chart.summary = f"{figures.scores['f1']:.1f} at the threshold {figures.threshold:g}."
    if figures.best is not None:
        threshold, f1 = figures.best
        chart.summary += f" The best, in hindsight on these very solutions: {f1:.1f} at {threshold:.2f}."
        if 0 <= threshold <= 1:
            chart.points.append(Point(x(threshold), y(f1), "best", f"highest F1, {f1:.1f} at {threshold:.3f}"))
    if figures.cut_off:
        chart.summary += " Lower thresholds are not known: judging stopped at the first step below this one."
    chart.header = ("threshold", *names.values())
    chart.rows = [
        (f"{threshold:.2f}", *(f"{values[name]:.1f}" for name in names))
        for threshold, values in scores.items()
        if round(threshold * 100) % 5 == 0
    ]
    chart.legend = [("main", "F1"), ("error_acc", "errors found"), ("correct_acc", "correct kept")]
    return chart
