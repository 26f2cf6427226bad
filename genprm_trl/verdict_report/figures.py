"""The numbers behind the page's charts, with the reason where verdicts do not allow one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from genprm_trl.metrics.estimates import ScoreEstimate, processbench_by_votes
from genprm_trl.metrics.processbench import (
    best_threshold,
    calibration_error,
    processbench_scores,
    step_auroc,
)
from genprm_trl.records import Verdict, prediction_from_rewards, prediction_if_read

HISTOGRAM_BINS = 20
RELIABILITY_BINS = 10
THRESHOLDS = tuple(round(0.01 * number, 2) for number in range(101))
_Z = 1.959963984540054  # of a 95 % interval

# Reasons for a chart that is not there.
NO_LABELS = "No verdict carries a label, so there is nothing to hold them against."
ONE_CLASS = "F1 needs labelled solutions with a wrong step and some without."
CUT_OFF = (
    "These solutions were judged up to their first step below the threshold and no further, so it is not known what "
    "fewer rationales would have predicted."
)


@dataclass(slots=True)
class Judged:
    """What the charts need of a verdict.

    Attributes:
        label: Index of the first wrong step, -1 for none, None where unknown.
        rewards: The reward of each judged step. Shape (T,).
        read: Whether each step has a verdict of the model. Shape (T,).
        chains: The rewards of each chain, NaN without a verdict, shape (M, T); empty if they and rewards do not match.
        prediction: The verdict's own; None where it rests on a step without a verdict.
        threshold: The verdict's own.
        cut_off: Whether steps after the prediction were left out; None where that cannot be told.
    """

    label: int | None
    rewards: list[float]
    read: list[bool]
    chains: list[list[float]]
    prediction: int | None
    threshold: float
    cut_off: bool | None

    @classmethod
    def of(cls, verdict: Verdict, num_steps: int | None = None) -> Judged:
        """`num_steps` is the solution's number of steps, where it is known."""
        chains = verdict.chain_rewards
        if any(len(chain) != len(verdict.rewards) for chain in chains):
            chains = []
        read = verdict.read if chains else [True] * len(verdict.rewards)
        cut_off: bool | None
        if num_steps is not None:
            cut_off = len(verdict.rewards) < num_steps
        elif 0 <= verdict.prediction == len(verdict.rewards) - 1:
            cut_off = None
        else:
            cut_off = False
        prediction = verdict.scored_prediction
        return cls(verdict.label, verdict.rewards, read, chains, prediction, verdict.threshold, cut_off)

    @property
    def read_rewards(self) -> list[float]:
        """The averaged rewards, NaN where the step has no verdict. Shape (T,)."""
        return [reward if is_read else math.nan for reward, is_read in zip(self.rewards, self.read, strict=True)]


@dataclass(slots=True)
class ReliabilityBin:
    """Steps whose reward lies in one bin: their mean reward, the share that is right with its Wilson interval."""

    mean_reward: float
    right: float
    low: float
    high: float
    steps: int


@dataclass(slots=True)
class Figures:
    """What can be measured on a set of verdicts.

    Attributes:
        histogram: Steps by reward, `HISTOGRAM_BINS` bins of equal width, for each of `right`, `wrong` and `unknown`.
        scores: ProcessBench's, in per cent; None without labels.
        reliability: Bins that hold steps; empty without labels.
        calibration_error, auroc: Expected calibration error and area under the ROC curve of step rewards.
        by_n: N to F1; empty where `no_by_n` says why.
        by_threshold: Threshold to `error_acc`, `correct_acc` and `f1`; empty where `no_by_threshold` says why.
        threshold: The one the predictions were made with; None if verdicts differ in it.
        best: The threshold that would have had the highest F1, and that F1.
        cut_off: Whether steps after a first wrong one were left out.
        chains: Fewest and most chains of a labelled verdict.
    """

    histogram: dict[str, list[int]]
    scores: dict[str, float | None] | None = None
    labelled: int = 0
    reliability: list[ReliabilityBin] = field(default_factory=list)
    calibration_error: float | None = None
    auroc: float | None = None
    known_steps: int = 0
    by_n: dict[int, ScoreEstimate] = field(default_factory=dict)
    no_by_n: str = ""
    by_threshold: dict[float, Mapping[str, float | None]] = field(default_factory=dict)
    no_by_threshold: str = ""
    threshold: float | None = None
    best: tuple[float, float] | None = None
    cut_off: bool = False
    chains: tuple[int, int] = (0, 0)


def measure(judged: Sequence[Judged], *, all_steps: bool | None = None) -> Figures:
    """Measures verdicts.

    Args:
        judged: The verdicts.
        all_steps: Whether all steps were judged (`stop="never"`); None if unknown. If the numbers of steps are
            unknown, too, verdicts count as cut off if every flagged one ends at its prediction. A run over all steps
            sooner or later flags a step before the last one. A missing chart is better than a wrong one.
    """
    histogram = {name: [0] * HISTOGRAM_BINS for name in ("right", "wrong", "unknown")}
    truths: list[bool] = []
    rewards: list[float] = []
    for one in judged:
        for step, reward in enumerate(one.rewards):
            known = one.label is not None and (one.label < 0 or step <= one.label)
            name = "unknown" if not known else "wrong" if step == one.label else "right"
            histogram[name][min(int(reward * HISTOGRAM_BINS), HISTOGRAM_BINS - 1)] += 1
            if known:
                truths.append(step != one.label)
                rewards.append(reward)
    figures = Figures(histogram)
    thresholds = {one.threshold for one in judged}
    figures.threshold = thresholds.pop() if len(thresholds) == 1 else None
    flagged = [one.cut_off for one in judged if one.prediction is not None and one.prediction >= 0]
    figures.cut_off = not all_steps and (True in flagged or (None in flagged and False not in flagged))

    labelled = [one for one in judged if one.label is not None]
    figures.labelled = len(labelled)
    if not labelled:
        figures.no_by_n = figures.no_by_threshold = NO_LABELS
        return figures
    labels = [one.label for one in labelled if one.label is not None]
    figures.scores = processbench_scores(labels, [one.prediction for one in labelled])
    figures.known_steps = len(truths)
    figures.reliability = _reliability(truths, rewards)
    figures.calibration_error = calibration_error(truths, rewards, RELIABILITY_BINS)
    figures.auroc = step_auroc(truths, rewards)
    figures.chains = min(len(one.chains) for one in labelled), max(len(one.chains) for one in labelled)
    if figures.scores["f1"] is None:
        figures.no_by_n = figures.no_by_threshold = ONE_CLASS
        return figures
    _score_by_n(figures, labelled, labels)
    _score_by_threshold(figures, labelled, labels)
    return figures


def _score_by_n(figures: Figures, labelled: Sequence[Judged], labels: list[int]) -> None:
    fewest, _ = figures.chains
    if figures.cut_off:
        figures.no_by_n = CUT_OFF
    elif fewest < 2:
        figures.no_by_n = "That takes two rationales of every solution, and more to be a curve."
    elif figures.threshold is None:
        figures.no_by_n = "These verdicts were made with different thresholds."
    else:
        ns = sorted({2**k for k in range(fewest.bit_length())} | {fewest} | set(range(1, min(fewest, 8) + 1)))
        chains = [one.chains for one in labelled]
        figures.by_n = {n: processbench_by_votes(labels, chains, n, threshold=figures.threshold)["f1"] for n in ns}


def _score_by_threshold(figures: Figures, labelled: Sequence[Judged], labels: list[int]) -> None:
    if figures.cut_off and figures.threshold is None:
        figures.no_by_threshold = CUT_OFF
        return
    # Below its own threshold a verdict that was cut off may have flagged a step that was never judged.
    lowest = (figures.threshold or 0.0) if figures.cut_off else 0.0
    for threshold in THRESHOLDS:
        if threshold >= lowest:
            predictions = [
                prediction_if_read(prediction_from_rewards(one.rewards, threshold), one.read) for one in labelled
            ]
            figures.by_threshold[threshold] = processbench_scores(labels, predictions)
    complete = all(len(one.rewards) > max(label, 0) for one, label in zip(labelled, labels, strict=True))
    if complete and not figures.cut_off:
        figures.best = best_threshold(labels, [one.read_rewards for one in labelled])


def _reliability(truths: Sequence[bool], rewards: Sequence[float]) -> list[ReliabilityBin]:
    right, values = np.asarray(truths, dtype=float), np.asarray(rewards, dtype=float)
    bin_of = np.minimum((values * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    bins = []
    for number in range(RELIABILITY_BINS):
        inside = bin_of == number
        if steps := int(inside.sum()):
            share = float(right[inside].mean())
            low, high = wilson_interval(share, steps)
            bins.append(ReliabilityBin(float(values[inside].mean()), share, low, high, steps))
    return bins


def wilson_interval(share: float, size: int) -> tuple[float, float]:
    """The 95 % interval of a share among `size` (Wilson 1927)."""
    centre = share + _Z**2 / (2 * size)
    spread = _Z * math.sqrt(share * (1 - share) / size + _Z**2 / (4 * size**2))
    scale = 1 + _Z**2 / size
    return max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0)
