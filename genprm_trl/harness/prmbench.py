"""PRMBench (Song et al. 2025, arXiv 2501.03124): every step judged, in nine classes of errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from genprm_trl.data.formats import to_processbench
from genprm_trl.data.solutions import solution_reader
from genprm_trl.errors import ConfigError
from genprm_trl.grading.thinking import without_thinking
from genprm_trl.harness.critique import Critique
from genprm_trl.harness.data import as_test_split, read_benchmark
from genprm_trl.harness.judge import NEEDS_ALL_STEPS
from genprm_trl.harness.steps import OF_VERDICTS, UNPARSABLE, Item, Metrics, with_errors
from genprm_trl.harness.verdicts import StepVerdicts, kept, verdicts_of
from genprm_trl.metrics.estimates import ScoreEstimate, bootstrap_estimate
from genprm_trl.metrics.prmbench import (
    CLASSES,
    ERROR_FREE,
    ORIGINAL,
    SUBJECTS,
    UNDEFINED,
    count_steps,
    finds_first_error,
    prm_score,
    step_scores,
)
from genprm_trl.protocol.prmbench import parse_step_scores
from genprm_trl.records import StepJudgement

if TYPE_CHECKING:
    from datasets import Dataset

    from genprm_trl.data.solutions import RowReader
    from genprm_trl.records import Solution

Judged = Sequence[bool | None]

_OF_REDUNDANCY = SUBJECTS["simplicity"]


def prmbench_dataset(data_dir: Any = None, **_: Any) -> dict[str, Dataset]:
    """PRMBench, as the harness's `custom_dataset`.

    Args:
        data_dir: A directory with JSON Lines files. Default: the Hub.
        _: The harness passes all of the task's metadata and the model's arguments.

    Returns:
        As the split `test` the modified solutions, and for each of class `redundency` the original one, too.

    Raises:
        DataError: The data are missing (it says how to get them) or a row is unusable.
        ConfigError: `data_dir` is no path.
    """
    seen: set[str] = set()

    def each_once(stem: str) -> RowReader:
        """Reads a solution that stands there twice once, as the benchmark's repository does."""
        read = solution_reader("prmbench")(stem)

        def new(row: Mapping[str, Any], number: int) -> list[Solution]:
            solutions = [solution for solution in read(row, number) if solution.id not in seen]
            seen.update(solution.id for solution in solutions)
            return solutions

        return new

    return as_test_split(
        {**to_processbench(solution), **{name: solution.extra[name] for name in ("classification", "error_steps")}}
        for solution in read_benchmark("prmbench", data_dir, "train", each_once)
    )


def _item(doc: Mapping[str, Any], judged: Sequence[Judged]) -> Item:
    """What the metrics need of one solution, for each of G verifiers: counts of shape (G, 4), and two lists."""
    errors = doc["error_steps"]
    return {
        "id": doc["id"],
        "classification": doc["classification"],
        "counts": [count_steps(errors, steps) for steps in judged],
        "first": [finds_first_error(errors, steps) for steps in judged],
        "share": [sum(map(bool, steps)) / len(steps) if any(step is not None for step in steps) else None
                  for steps in judged],
    }  # fmt: skip


def _fewest(items: Sequence[Item]) -> int:
    return min(len(item["counts"]) for item in items)


def _counts(items: Sequence[Item]) -> np.ndarray:
    """The counts of all items but the original solutions. Shape (B, G, 4)."""
    fewest = _fewest(items)
    rows = [item["counts"][:fewest] for item in items if item["classification"] != ORIGINAL]
    return np.array(rows, dtype=float).reshape(-1, fewest, 4)


def _of_class(items: Sequence[Item], name: str) -> list[Item]:
    return [item for item in items if item["classification"] == name]


def _mean(values: Iterable[float]) -> float:
    """The mean in per cent; NaN where one is undefined, or there are none."""
    found = list(values)
    return 100 * math.fsum(found) / len(found) if found and UNDEFINED not in found else math.nan


def _score(name: str, items: Sequence[Item]) -> float:
    """A score of pooled counts, averaged over verifiers."""
    if not items:
        return math.nan
    return _mean(_part(name, pooled) for pooled in _counts(items).sum(axis=0))


def _part(name: str, counts: np.ndarray) -> float:
    if name == "prmscore":
        return prm_score(*counts)
    if name == "total_step_acc":
        return float((counts[0] + counts[2]) / counts.sum())
    scores = step_scores(*counts)
    kind = name.removesuffix("f1")
    if kind != name and scores[f"{kind}precision"] == scores[f"{kind}recall"] == 0:
        return 0.0  # no hit at all, which is undefined in the repository
    return scores[name]


def _prm_score(items: Sequence[Item]) -> ScoreEstimate:
    counts = _counts(items)
    if not len(counts):
        return ScoreEstimate(math.nan, math.nan, math.nan, math.nan)
    return bootstrap_estimate(
        len(counts), lambda rows: _mean(prm_score(*pooled) for pooled in counts[rows].sum(axis=0))
    )


def _score_of_class(name: str, classification: str, items: Sequence[Item]) -> float:
    own = _of_class(items, classification)
    if classification != ERROR_FREE:
        return _score(name, own)
    if name == "negative_f1":  # nothing to be found
        return math.nan
    return _mean(prm_score(*pooled, error_free=True) for pooled in _counts(own).sum(axis=0)) if own else math.nan


def _score_of_subject(name: str, subject: str, items: Sequence[Item]) -> float:
    """The plain mean of the subject's classes; of those with errors for negative F1."""
    classes = [each for each in SUBJECTS[subject] if name != "negative_f1" or each != ERROR_FREE]
    return math.fsum(_score_of_class(name, each, items) for each in classes) / len(classes)


def _first_error(items: Sequence[Item]) -> float:
    """Of the solutions whose first wrong step is there, the share in which it is judged wrong."""
    fewest = _fewest(items)
    return _mean(float(hit) for item in items for hit in item["first"][:fewest] if hit is not None)


def _similarity(items: Sequence[Item]) -> float:
    """How far the share of steps judged right is from that in the original solution, where that is not 0."""
    originals = {item["id"]: item["share"] for item in items if item["classification"] == ORIGINAL}
    differences = []
    for item in items:
        name = item["id"].removeprefix(f"{item['classification']}_")
        of_original = originals.get(f"{ORIGINAL}_{name}") or []
        if item["classification"] != ORIGINAL:
            pairs = zip(item["share"], of_original, strict=False)
            differences += [abs(share - other) for share, other in pairs if share is not None and other]
    return _mean(differences)


def _table() -> Metrics:
    table: dict[str, Callable[[Any], float]] = dict(with_errors(prmscore=_prm_score))
    table |= {name: partial(_score, name) for name in ("f1", "negative_f1", "precision", "recall")}
    table |= {
        "correct_step_acc": partial(_score, "recall"),
        "wrong_step_acc": partial(_score, "negative_recall"),
        "total_step_acc": partial(_score, "total_step_acc"),
        "first_error_acc": _first_error,
        "similarity": _similarity,
    }
    for name in ("prmscore", "f1", "negative_f1"):
        table |= {f"{name}_{subject}": partial(_score_of_subject, name, subject) for subject in SUBJECTS}
        table |= {f"{name}_{each}": partial(_score_of_class, name, each) for each in CLASSES}
    return table


_SCORES = _table()


class StepScoresCritique(Critique):
    """A critic's scores of all steps of a solution. Where they cannot be read, every step counts as misjudged."""

    metrics: ClassVar[Metrics] = {**_SCORES, **UNPARSABLE}

    def process_results(self, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
        """Returns one solution's value for every metric."""
        steps = len(doc["steps"])
        found = parse_step_scores(without_thinking(results[0]), steps)
        judged: Judged = [None] * steps
        if found is not None:
            judged, redundant = found
            if redundant is not None and doc["classification"] in _OF_REDUNDANCY:
                judged = [not each for each in redundant]
        return {**dict.fromkeys(_SCORES, _item(doc, [judged])), "unparsable": 100.0 * (found is None)}


class AllStepsVerdicts(StepVerdicts):
    """A verifier's verdict on all steps of a solution. A step without one counts as misjudged."""

    of_predictions: ClassVar[Metrics] = _SCORES
    of_rewards: ClassVar[Metrics] = {}
    metrics: ClassVar[Metrics] = {**_SCORES, **OF_VERDICTS}

    def values(self, doc: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what the metrics are made of.

        Raises:
            ConfigError: The verifier has left out steps.
        """
        if any(len(steps) != len(doc["steps"]) for steps in kept["judged"]):
            raise ConfigError(NEEDS_ALL_STEPS)
        return dict.fromkeys(_SCORES, _item(doc, kept["judged"]))


def averaged_steps(resps: Iterable[Sequence[str]], docs: Any) -> list[str]:
    """Maj@N: every step by its reward averaged over the chains."""
    return [
        kept(verdict, judged=[_judged(verdict.rewards, verdict.read, verdict.threshold)])
        for verdict in verdicts_of(resps)
    ]


def each_chains_steps(resps: Iterable[Sequence[str]], docs: Any) -> list[str]:
    """Pass@1: the steps of every chain by itself."""
    return [
        kept(verdict, judged=[_of_chain(chain, verdict.threshold) for chain in verdict.chains])
        for verdict in verdicts_of(resps)
    ]


def _of_chain(chain: Sequence[StepJudgement], threshold: float) -> list[bool | None]:
    return _judged([judgement.reward for judgement in chain], [judgement.is_read for judgement in chain], threshold)


def _judged(rewards: Sequence[float], read: Sequence[bool], threshold: float) -> list[bool | None]:
    return [reward >= threshold if is_read else None for reward, is_read in zip(rewards, read, strict=True)]
