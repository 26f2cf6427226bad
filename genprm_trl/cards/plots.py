"""Pictures of what was measured."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genprm_trl.errors import MissingExtraError
from genprm_trl.rows.outputs import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

# Okabe and Ito's colours, told apart with any colour vision; markers tell them apart in grey, too.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")


def can_plot() -> bool:
    """Whether pictures can be drawn. If not, logs what to install; the caller leaves its pictures out."""
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    logger.warning("no pictures: %s", _missing())
    return False


def require_plots() -> None:
    """Checks, before any work, that pictures can be drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise _missing()


@dataclass(frozen=True, slots=True)
class Curve:
    """A score against the number of sampled rationales.

    Attributes:
        scores: N to score (per cent).
        interval: N to the bounds of the score's interval; may be empty.
    """

    scores: Mapping[int, float]
    interval: Mapping[int, tuple[float, float]]


def plot_score_by_n(
    path: str | Path,
    curves: Mapping[str, Curve],
    levels: Mapping[str, float] | None = None,
    *,
    title: str = "",
    ylabel: str = "ProcessBench F1 (%)",
    xlabel: str = "rationales sampled a solution, N",
) -> Path:
    """Draws scores against N, sampled rationales averaged, and saves a PNG.

    Args:
        path: File of the picture.
        curves: Name to curve.
        levels: Name to a score that does not depend on N, drawn as a horizontal line.
        title: Heading of the picture.
        ylabel: What the scores are.
        xlabel: What N is.

    Returns:
        The picture's path.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = _picture(4.4)
    _draw(axes, curves)
    for number, (name, level) in enumerate((levels or {}).items()):
        axes.axhline(level, linestyle=("--", ":", "-.")[number % 3], color="0.35", label=name)
    all_ns = sorted({n for curve in curves.values() for n in curve.scores})
    axes.set_xscale("log", base=2)
    axes.set_xticks(all_ns, [str(n) for n in all_ns])
    axes.minorticks_off()
    axes.set_ylim(-2, 102)  # a level of 0 or 100 is to be seen, too
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    _save(figure, path)
    return Path(path)


def plot_over_training(path: str | Path, panels: Mapping[str, Mapping[str, Curve]], *, title: str = "") -> Path:
    """Draws panels side by side, each with curves over the steps of a training, and saves a PNG.

    Args:
        path: File of the picture.
        panels: What a panel shows, to its curves; the same names in each. Their N is the optimiser step.
        title: Heading of the picture.

    Returns:
        The picture's path.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, all_axes = _panels(len(panels))
    for axes, (ylabel, curves) in zip(all_axes, panels.items(), strict=True):
        _draw(axes, curves)
        axes.set_xlabel("optimiser steps")
        axes.set_ylabel(ylabel)
        axes.grid(alpha=0.25)
    figure.suptitle(title)
    names = all_axes[0].get_legend_handles_labels()
    figure.legend(*names, frameon=False, fontsize=9, loc="outside lower center", ncols=len(names[1]))
    _save(figure, path)
    return Path(path)


def plot_bars(
    path: str | Path,
    names: Sequence[str],
    values: Sequence[float],
    *,
    xlabel: str = "",
    ylabel: str = "",
    horizontal: bool = False,
) -> Path:
    """Draws a bar for each name, in order, and saves a PNG.

    Args:
        path: File of the picture.
        names: The names of the bars.
        values: Their heights.
        xlabel: What the names are; horizontal bars do not show it.
        ylabel: What the values are.
        horizontal: Draw the bars from top to bottom, with room for long names.

    Returns:
        The picture's path.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = _picture(max(2.0, 0.4 * len(names) + 1.0) if horizontal else 3.2)
    places = range(len(names))
    if horizontal:
        bars = axes.barh(places, values, color=_COLORS[0])
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlabel(ylabel)
        axes.bar_label(bars, fmt="{:,g}", padding=3, fontsize=8)
        axes.margins(x=0.12)
    else:
        axes.bar(places, values, color=_COLORS[0])
        step = -(-len(names) // 12)  # not more names than can be told apart
        axes.set_xticks(places[::step], names[::step])
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
    axes.grid(axis="x" if horizontal else "y", alpha=0.25)
    axes.set_axisbelow(True)
    _save(figure, path)
    return Path(path)


def _draw(axes: Axes, curves: Mapping[str, Curve]) -> None:
    """Draws each curve with a colour and a marker of its own, and the band of its interval."""
    for number, (name, curve) in enumerate(curves.items()):
        ns = sorted(curve.scores)
        color, marker = _COLORS[number % len(_COLORS)], _MARKERS[number % len(_MARKERS)]
        axes.plot(ns, [curve.scores[n] for n in ns], marker=marker, color=color, label=name)
        with_interval = [n for n in ns if n in curve.interval]
        low, high = ([curve.interval[n][bound] for n in with_interval] for bound in (0, 1))
        axes.fill_between(with_interval, low, high, color=color, alpha=0.12, linewidth=0)


def _picture(height: float) -> tuple[Figure, Axes]:
    """An empty picture of the usual width.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = _figure(7.2, height)
    return figure, figure.add_subplot()


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """An empty picture with panels side by side.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = _figure(4.0 * count, 4.0)
    return figure, [figure.add_subplot(1, count, place + 1) for place in range(count)]


def _figure(width: float, height: float) -> Figure:
    require_plots()
    # The object interface: pyplot would take hold of a display and of global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | Path) -> None:
    # No date and no version in the file, so that equal numbers make equal pictures.
    with replacing(path, result=True) as file:
        figure.savefig(file, format="png", metadata={"Software": None})


def _missing() -> MissingExtraError:
    return MissingExtraError("matplotlib", "plots", "drawing pictures")
