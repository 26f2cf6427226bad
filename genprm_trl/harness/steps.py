"""Tasks on labelled steps: their metrics as tables, and what they share.

A metric makes a number of what a task keeps of each solution. Of a task that looks for the first wrong step that is an
item with `label` and `predictions`, one for each verifier. Where the rewards of one verifier count, the item has
`rewards` and `threshold`, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask

from genprm_trl.errors import DataError
from genprm_trl.harness.data import BENCHMARKS, splits_there
from genprm_trl.metrics.estimates import mean_estimate, processbench_estimates
from genprm_trl.metrics.processbench import (
    SCORES,
    best_step_accuracy,
    best_threshold,
    calibration_error,
    compare,
    step_auroc,
)

Item = Mapping[str, Any]
Metrics = Mapping[str, Callable[[Any], float]]

# Of these a lower value is better. So it is of every standard error.
_LOWER_IS_BETTER = ("unparsable", "no_verdict", "failed", "step_ece")


class StepTask(ConfigurableTask):
    """A task whose metrics are a table of its class.

    Args:
        config: The task's YAML.

    Attributes:
        metrics: What makes a number of the kept values, by the name of the metric. An error stands behind its metric:
            the harness takes what it finds under `NAME_stderr` for the error of NAME.
    """

    metrics: ClassVar[Metrics] = {}

    def __init__(self, config: Mapping[str, Any] | None = None):
        # `class` is how the YAML names this class; the harness's own configuration has no such field.
        super().__init__(config={name: value for name, value in (config or {}).items() if name != "class"})

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **others: Any) -> None:
        """Loads the data.

        Raises:
            DataError: They are missing or unusable. If a directory holds other splits, it names the tasks of those.
        """
        try:
            super().download(dataset_kwargs, **others)
        except DataError as error:
            split = (dataset_kwargs or {}).get("split")
            family, _, of_split = str(self.config.task).partition("_" + str(split))
            benchmark = next((name for name in BENCHMARKS if family.startswith(name)), None)
            there = splits_there(benchmark, (self.config.metadata or {}).get("data_dir")) if benchmark else []
            if error.row is not None or split in there or not there:
                raise
            tasks = ",".join(f"{family}_{each}{of_split}" for each in there)
            raise DataError(
                f"{error.message}. To score what is there, name its tasks in place of the group: --tasks {tasks}",
                file=error.file,
            ) from None

    def aggregation(self) -> dict[str, Callable[[Any], float]]:
        """Tells the harness how each metric is made of the values of all solutions."""
        return dict(self.metrics)

    def higher_is_better(self) -> dict[str, bool]:
        """Tells the harness of which metrics a higher value is better."""
        return {name: not name.endswith("_stderr") and name not in _LOWER_IS_BETTER for name in self.aggregation()}


def with_errors(**estimates: Callable[[Any], Any]) -> dict[str, Callable[[Any], float]]:
    """The metrics of functions that return an estimate: each value, and its standard error behind it."""
    table: dict[str, Callable[[Any], float]] = {}
    for name, estimate in estimates.items():
        table[name] = partial(_part, estimate, "value")
        table[f"{name}_stderr"] = partial(_part, estimate, "stderr")
    return table


def _part(estimate: Callable[[Any], Any], part: str, items: Any) -> float:
    return float(getattr(estimate(items), part))


def kept_of(items: Sequence[Item]) -> tuple[list[int], list[list[int | None]]]:
    """The labels of all items and their predictions, as many of each item.

    Verifiers with adaptive N have more predictions for some solutions than for others.
    """
    fewest = min(len(item["predictions"]) for item in items)
    return [item["label"] for item in items], [list(item["predictions"][:fewest]) for item in items]


def _score(name: str, items: Sequence[Item]) -> Any:
    return processbench_estimates(*kept_of(items))[name]


def _exact(items: Sequence[Item]) -> Any:
    _, hits = compare(*kept_of(items))
    return mean_estimate(hits.mean(axis=1).tolist())


def _best(items: Sequence[Item]) -> tuple[float, float]:
    """The threshold with the highest F1 on these very solutions and that F1; NaN where there is none."""
    try:
        return best_threshold(
            [item["label"] for item in items], [_numbers(item["rewards"], math.nan) for item in items]
        )
    except ValueError:  # a class is missing, or stop=first_error has left out steps
        return math.nan, math.nan


def _numbers(rewards: Sequence[float | None], unread: float) -> list[float]:
    return [unread if reward is None else reward for reward in rewards]


def _steps(items: Sequence[Item], unread: float = 0.5) -> tuple[list[bool], list[float]]:
    """The steps whose truth is known, those up to the first wrong one: whether each is right, and its reward."""
    right, rewards = [], []
    for item in items:
        label = item["label"]
        known = len(item["rewards"]) if label == -1 else min(label + 1, len(item["rewards"]))
        right += [step != label for step in range(known)]
        rewards += _numbers(item["rewards"][:known], unread)
    return right, rewards


def _per_cent(value: float | None) -> float:
    return math.nan if value is None else 100 * value


def _step_acc(items: Sequence[Item]) -> float:
    """The share of steps that the verifier's own threshold judges rightly."""
    right, rewards = _steps(items, unread=math.nan)
    threshold = items[0]["threshold"]
    hits = [
        not math.isnan(reward) and (reward >= threshold) == truth for truth, reward in zip(right, rewards, strict=True)
    ]
    return 100 * math.fsum(hits) / len(hits)


# In per cent, with bootstrap errors over the solutions.
LOCATED: Metrics = with_errors(**{name: partial(_score, name) for name in SCORES})
ACCURACY: Metrics = with_errors(accuracy=_exact)

OF_REWARDS: Metrics = {
    "best_f1": lambda items: _best(items)[1],
    "best_threshold": lambda items: _best(items)[0],
    "step_acc": _step_acc,
    "best_step_acc": lambda items: 100 * best_step_accuracy(*_steps(items, unread=math.nan))[1],
    "step_auroc": lambda items: _per_cent(step_auroc(*_steps(items))),
    "step_ece": lambda items: _per_cent(calibration_error(*_steps(items))),
}

UNPARSABLE: Metrics = {"unparsable": mean}
OF_VERDICTS: Metrics = {"no_verdict": mean, "failed": mean}
