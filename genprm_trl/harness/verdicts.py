"""Tasks for verifiers: what the model `genprm` answers, scored as rewards of steps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from genprm_trl.harness.data import encode_solution, read_verdict
from genprm_trl.harness.steps import LOCATED, OF_REWARDS, OF_VERDICTS, Metrics, StepTask
from genprm_trl.records import Verdict, prediction_from_rewards, prediction_if_read


class StepVerdicts(StepTask):
    """One verdict on a solution, read by two filters: `averaged` and `each_chain`.

    Attributes:
        of_predictions: The metrics of predictions.
        of_rewards: The metrics of rewards, which only `averaged` has.
    """

    of_predictions: ClassVar[Metrics] = LOCATED
    of_rewards: ClassVar[Metrics] = OF_REWARDS
    metrics: ClassVar[Metrics] = {**LOCATED, **OF_REWARDS, **OF_VERDICTS}

    def process_results(self, doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
        """Returns one solution's value for every metric; none but `failed` where judging it failed."""
        kept = json.loads(results[0])
        if kept.get("failed"):  # by the generator or the sandbox: in no score
            return {"failed": 100.0}
        return {**self.values(doc, kept), "no_verdict": kept["no_verdict"], "failed": 0.0}

    def values(self, doc: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what the metrics of predictions and rewards are made of.

        Args:
            doc: The document.
            kept: What a filter has kept of the verdict.
        """
        item = {"label": doc["label"], **{name: kept[name] for name in ("predictions", "rewards", "threshold")}}
        names = self.of_predictions if kept["rewards"] is None else {**self.of_predictions, **self.of_rewards}
        return dict.fromkeys(names, item)


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """Returns a solution as the text that the model `genprm` reads."""
    return encode_solution(doc["problem"], doc["steps"], doc["id"])


# The two filters: one verdict read as one verifier of N chains, or as N verifiers of one chain each. What they keep of
# it goes to the logged samples, which have the whole verdict beside it.


def averaged(resps: Iterable[Sequence[str]], docs: Any) -> list[str]:
    """Maj@N: rewards averaged over the chains."""
    return [
        kept(verdict, predictions=[verdict.scored_prediction], rewards=read_rewards(verdict))
        for verdict in verdicts_of(resps)
    ]


def each_chain(resps: Iterable[Sequence[str]], docs: Any) -> list[str]:
    """Pass@1: every chain by itself."""
    return [
        kept(verdict, predictions=[_predicted(chain, verdict.threshold) for chain in verdict.chains], rewards=None)
        for verdict in verdicts_of(resps)
    ]


def _predicted(chain: Sequence[Any], threshold: float) -> int | None:
    prediction = prediction_from_rewards([judgement.reward for judgement in chain], threshold)
    return prediction_if_read(prediction, [judgement.is_read for judgement in chain])


def verdicts_of(resps: Iterable[Sequence[str]]) -> list[Verdict]:
    """The verdicts in the answers to all requests."""
    return [read_verdict(texts[0]) for texts in resps]


def read_rewards(verdict: Verdict) -> list[float | None]:
    """The averaged rewards; null, as JSON has no NaN, where no chain gave the step a verdict."""
    return [reward if is_read else None for reward, is_read in zip(verdict.rewards, verdict.read, strict=True)]


def kept(verdict: Verdict, **values: Any) -> str:
    """What a filter keeps of a verdict, as JSON: the harness logs what is no text by its Python form."""
    unread = sum(not judgement.is_read for chain in verdict.chains for judgement in chain)
    values |= {
        "threshold": verdict.threshold,
        "failed": verdict.has_failed,
        "no_verdict": 100 * unread / max(sum(map(len, verdict.chains)), 1),
    }
    return json.dumps(values)
