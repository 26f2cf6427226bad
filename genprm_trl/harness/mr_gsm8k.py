"""MR-GSM8K (Zeng et al. 2023, arXiv 2312.17080): is a solution right, where does it go wrong, and why?"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean

from genprm_trl.data.formats import to_processbench
from genprm_trl.grading.thinking import without_thinking
from genprm_trl.harness.critique import Critique
from genprm_trl.harness.data import as_test_split, read_benchmark
from genprm_trl.harness.explanations import ExplanationJudge, doc_to_text
from genprm_trl.harness.steps import OF_VERDICTS, UNPARSABLE, Item, Metrics, kept_of, with_errors
from genprm_trl.harness.verdicts import StepVerdicts
from genprm_trl.metrics.estimates import ScoreEstimate, bootstrap_estimate
from genprm_trl.metrics.mr_gsm8k import matthews, mr_score
from genprm_trl.metrics.processbench import compare
from genprm_trl.protocol.mr_gsm8k import parse_decision, parse_solution_critique

if TYPE_CHECKING:
    from datasets import Dataset


def mr_gsm8k_dataset(data_dir: Any = None, **_: Any) -> dict[str, Dataset]:
    """MR-GSM8K, as the harness's `custom_dataset`.

    Args:
        data_dir: A clone of its repository, or a directory with `MR-GSM8K.json`. Default: the repository.
        _: The harness passes all of the task's metadata and the model's arguments.

    Returns:
        The solutions as the split `test`.

    Raises:
        DataError: The data are missing (it says how to get them) or a row is unusable.
        ConfigError: `data_dir` is no path.
    """
    return as_test_split(
        {
            **to_processbench(solution),
            **{name: solution.extra[name] for name in ("first_error_reason", "question_type")},
        }
        for solution in read_benchmark("mr_gsm8k", data_dir)
    )


def _estimate(of_counts: Callable[..., float], items: Sequence[Item]) -> ScoreEstimate:
    """A score of the counts tp, tn, fp, fn and of the shares of steps and reasons, averaged over verifiers."""
    labels, predictions = kept_of(items)
    wrong, hits = compare(labels, predictions)
    found = np.array([[guess is not None and guess != -1 for guess in row] for row in predictions])
    passed = np.array([[guess == -1 for guess in row] for row in predictions])
    accepted = np.array([bool(item.get("accepted")) for item in items])

    def of_rows(rows: np.ndarray) -> float:
        is_wrong = wrong[rows]
        size = int(is_wrong.sum())
        scores = []
        for verifier in range(hits.shape[1]):
            tp = int((passed[rows, verifier] & ~is_wrong).sum())
            tn = int((found[rows, verifier] & is_wrong).sum())
            located = hits[rows, verifier] & is_wrong
            steps, reasons = (
                float(each.sum()) / size if size else math.nan for each in (located, located & accepted[rows])
            )
            scores.append(of_counts(matthews(tp, tn, size - tn, len(rows) - size - tp), steps, reasons))
        return 100 * math.fsum(scores) / len(scores)

    return bootstrap_estimate(len(items), of_rows)


def _mcc(mcc: float, steps: float, reasons: float) -> float:
    return mcc


def _step_accuracy(mcc: float, steps: float, reasons: float) -> float:
    return steps


def _without_reason(mcc: float, steps: float, reasons: float) -> float:
    return mr_score(mcc, steps)


def _reason_accuracy(mcc: float, steps: float, reasons: float) -> float:
    return reasons


LOCATED_AND_JUDGED: Metrics = with_errors(
    mcc=partial(_estimate, _mcc),
    step_accuracy=partial(_estimate, _step_accuracy),
    mr_score_without_reason=partial(_estimate, _without_reason),
)
WITH_REASON: Metrics = with_errors(
    reason_accuracy=partial(_estimate, _reason_accuracy), mr_score=partial(_estimate, mr_score)
)


class MetaCritique(Critique):
    """A critic's judgement of a solution, its first error and the reason, which a judge accepts or not.

    The judge is that of the metadata (`ExplanationJudge`). Without one there is no MR-Score.
    """

    metrics: ClassVar[Metrics] = {
        **LOCATED_AND_JUDGED,
        **WITH_REASON,
        **UNPARSABLE,
        "judge_unparsable": mean,
    }

    def __init__(self, config: Mapping[str, Any] | None = None):
        judge = ((config or {}).get("metadata") or {}).get("judge")
        self.judge = None if judge is None else ExplanationJudge.of(judge)
        super().__init__(config)

    def build_all_requests(self, **kwargs: Any) -> None:
        """Loads the judge first, so that the critic does not write in vain."""
        if self.judge is not None:
            self.judge.open()
        super().build_all_requests(**kwargs)

    def apply_filters(self) -> list[Instance] | None:
        """Asks the judge of all explanations of first errors that are named exactly."""
        super().apply_filters()
        if self.judge is not None:
            for instance in self._instances:
                for name, text in instance.filtered_resps.items():
                    # As JSON: the harness logs what is no text by its Python form.
                    instance.filtered_resps[name] = json.dumps({"text": text})
            todo = [each for each in self._instances if self._is_located(each)]
            answers = self.judge.answers([doc_to_text(self._explained(each)) for each in todo])
            for instance, answer in zip(todo, answers, strict=True):
                for name, kept in instance.filtered_resps.items():
                    instance.filtered_resps[name] = json.dumps(
                        {**json.loads(kept), "judge": answer}, ensure_ascii=False
                    )
        return self._instances

    def _is_located(self, instance: Instance) -> bool:
        critique = parse_solution_critique(_text(instance))
        label = instance.doc["label"]
        return critique is not None and label >= 0 and critique.prediction == label

    def _explained(self, instance: Instance) -> dict[str, Any]:
        critique = parse_solution_critique(_text(instance))
        return {**instance.doc, "explanation": critique.reason if critique is not None else ""}

    def process_results(self, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
        """Returns one solution's value for every metric; those with reasons where there is a judge."""
        kept = {"text": results[0]} if self.judge is None else json.loads(results[0])
        critique = parse_solution_critique(without_thinking(kept["text"]))
        item: dict[str, Any] = {
            "label": doc["label"],
            "predictions": [None if critique is None else critique.prediction],
        }
        values: dict[str, Any] = {"unparsable": 100.0 * (critique is None)}
        names = dict(LOCATED_AND_JUDGED)
        if self.judge is not None:
            names.update(WITH_REASON)
            if "judge" in kept:
                item["accepted"] = parse_decision(without_thinking(kept["judge"]))
                values["judge_unparsable"] = 100.0 * (item["accepted"] is None)
        return {**dict.fromkeys(names, item), **values}


def _text(instance: Instance) -> str:
    kept = next(iter(instance.filtered_resps.values()))
    return without_thinking(json.loads(kept)["text"])


class MetaVerdicts(StepVerdicts):
    """A verifier's verdict on a solution. It explains nothing, so there is no MR-Score."""

    of_predictions: ClassVar[Metrics] = LOCATED_AND_JUDGED
    of_rewards: ClassVar[Metrics] = {}
    metrics: ClassVar[Metrics] = {**LOCATED_AND_JUDGED, **OF_VERDICTS}
